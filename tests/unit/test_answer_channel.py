"""Answers on their way back: frames of many requests on one connection, and what becomes of them when it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from rayloom.serve.transport import answer_channel
from rayloom.serve.transport.answer_channel import (
    AnswerReceiver,
    GatewayConnection,
    GatewayConnections,
    ReplicaConnection,
    ReplyAddress,
)
from rayloom.serve.transport.asgi_call import Frames
from rayloom.serve.transport.relay import ReplicaLost

HOST = "127.0.0.1"


def played(scene: Callable[[AnswerReceiver], Coroutine[Any, Any, None]]) -> None:
    """A scene with an open receiver, all of whose connections are closed after it."""

    async def whole() -> None:
        receiver = AnswerReceiver()
        await receiver.open(HOST)
        await scene(receiver)
        receiver.close()
        while receiver.num_connections:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)  # the other ends hear of it

    uvloop.run(asyncio.wait_for(whole(), 10))  # as in Ray's actors


async def connection_to(reply_to: ReplyAddress | None) -> GatewayConnection:
    assert reply_to is not None
    connection = await GatewayConnections().to(reply_to)
    assert connection is not None
    return connection


async def read(frames: Frames) -> list[bytes]:
    return [frame async for frame in frames.read()]


def test_frames_of_two_requests_share_a_connection_and_keep_apart() -> None:
    async def scene(receiver: AnswerReceiver) -> None:
        with receiver.expect() as (first, ours), receiver.expect() as (second, theirs):
            connection = await connection_to(first)
            assert first is not None and second is not None
            for number, frame in ((first.number, b"head 1"), (second.number, b"head 2")):
                connection.write(number, frame)
            connection.write(second.number, b"x" * 300_000)
            connection.write(first.number, b"one")
            connection.end(first.number)
            connection.end(second.number)
            assert await read(ours) == [b"head 1", b"one"]
            assert b"".join(await read(theirs)) == b"head 2" + b"x" * 300_000

    played(scene)


def test_a_lost_connection_is_a_lost_replica_to_those_whose_answer_had_begun() -> None:
    async def scene(receiver: AnswerReceiver) -> None:
        with receiver.expect() as (reply_to, begun), receiver.expect() as (_, waiting):
            connection = await connection_to(reply_to)
            assert reply_to is not None
            connection.write(reply_to.number, b"head")
            answer = begun.read()
            assert await anext(answer) == b"head"
            connection._transport.abort()
            with pytest.raises(ReplicaLost):
                await anext(answer)
            waiting.end()
            assert await read(waiting) == []

    played(scene)


def test_an_answer_that_nobody_awaits_any_more_is_dropped() -> None:
    async def scene(receiver: AnswerReceiver) -> None:
        with receiver.expect() as (gone, _):
            connection = await connection_to(gone)
        assert gone is not None
        connection.write(gone.number, b"late")
        with receiver.expect() as (reply_to, frames):
            assert reply_to is not None
            connection.write(reply_to.number, b"head")
            connection.end(reply_to.number)
            assert await read(frames) == [b"head"]

    played(scene)


def test_who_does_not_know_the_secret_is_sent_away() -> None:
    async def scene(receiver: AnswerReceiver) -> None:
        with receiver.expect() as (reply_to, frames):
            assert reply_to is not None
            stranger = await connection_to(replace(reply_to, secret=b"?" * answer_channel.SECRET_BYTES))
            stranger.write(reply_to.number, b"forged")
            while not stranger.is_lost:
                await asyncio.sleep(0.01)
            honest = await connection_to(reply_to)
            honest.write(reply_to.number, b"head")
            honest.end(reply_to.number)
            assert await read(frames) == [b"head"]

    played(scene)


def test_a_replica_connects_once_and_again_if_the_connection_was_lost() -> None:
    async def scene(receiver: AnswerReceiver) -> None:
        with receiver.expect() as (reply_to, _):
            assert reply_to is not None
            ours = GatewayConnections()
            first, second = await asyncio.gather(ours.to(reply_to), ours.to(reply_to))
            assert first is second and first is not None
            first._transport.abort()
            while not first.is_lost:
                await asyncio.sleep(0.01)
            third = await ours.to(reply_to)
            assert third is not None and third is not first

    played(scene)


def test_a_gateway_that_is_not_there_is_tried_again_later() -> None:
    async def scene(receiver: AnswerReceiver) -> None:
        with receiver.expect() as (reply_to, _):
            assert reply_to is not None
            receiver.close()
            now = 0.0
            connections = GatewayConnections(lambda: now)
            assert await connections.to(reply_to) is None
            taking: list[ReplicaConnection] = []

            def taken() -> ReplicaConnection:
                taking.append(ReplicaConnection(receiver))
                return taking[-1]

            server = await asyncio.get_running_loop().create_server(taken, HOST, reply_to.port)
            assert await connections.to(reply_to) is None
            now = answer_channel.RETRY_SECONDS + 1
            connection = await connections.to(reply_to)
            assert connection is not None
            assert await connections.to(reply_to) is connection
            while not taking:
                await asyncio.sleep(0)
            taking[0].close()
            server.close()

    played(scene)
