"""Answers on their way back: frames of many requests on one connection, and what becomes of them when it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from rayloom.serve.transport import answer_channel
from rayloom.serve.transport.answer_channel import Line, Lines, Switchboard, WayBack
from rayloom.serve.transport.frames import Frames
from rayloom.serve.transport.relay import ReplicaLost

HOST = "127.0.0.1"


def played(scene: Callable[[Switchboard], Coroutine[Any, Any, None]]) -> None:
    """A scene with an open switchboard, all of whose connections are closed after it."""

    async def whole() -> None:
        board = Switchboard()
        await board.open(HOST)
        await scene(board)
        board.close()
        while board.num_lines:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)  # the other ends hear of it

    uvloop.run(asyncio.wait_for(whole(), 10))  # as in Ray's actors


async def line_to(back: WayBack | None) -> Line:
    assert back is not None
    line = await Lines().to(back)
    assert line is not None
    return line


async def read(frames: Frames) -> list[bytes]:
    return [frame async for frame in frames.read()]


def test_frames_of_two_requests_share_a_line_and_keep_apart() -> None:
    async def scene(board: Switchboard) -> None:
        with board.expecting() as (first, ours), board.expecting() as (second, theirs):
            line = await line_to(first)
            assert first is not None and second is not None
            for number, frame in ((first.number, b"head 1"), (second.number, b"head 2")):
                line.write(number, frame)
            line.write(second.number, b"x" * 300_000)
            line.write(first.number, b"one")
            line.end(first.number)
            line.end(second.number)
            assert await read(ours) == [b"head 1", b"one"]
            assert b"".join(await read(theirs)) == b"head 2" + b"x" * 300_000

    played(scene)


def test_a_lost_line_is_a_lost_replica_to_those_whose_answer_had_begun() -> None:
    async def scene(board: Switchboard) -> None:
        with board.expecting() as (back, begun), board.expecting() as (_, waiting):
            line = await line_to(back)
            assert back is not None
            line.write(back.number, b"head")
            answer = begun.read()
            assert await anext(answer) == b"head"
            line._transport.abort()
            with pytest.raises(ReplicaLost):
                await anext(answer)
            waiting.end()
            assert await read(waiting) == []

    played(scene)


def test_an_answer_that_nobody_awaits_any_more_is_dropped() -> None:
    async def scene(board: Switchboard) -> None:
        with board.expecting() as (gone, _):
            line = await line_to(gone)
        assert gone is not None
        line.write(gone.number, b"late")
        with board.expecting() as (back, frames):
            assert back is not None
            line.write(back.number, b"head")
            line.end(back.number)
            assert await read(frames) == [b"head"]

    played(scene)


def test_who_does_not_know_the_secret_is_sent_away() -> None:
    async def scene(board: Switchboard) -> None:
        with board.expecting() as (back, frames):
            assert back is not None
            stranger = await line_to(replace(back, secret=b"?" * answer_channel.SECRET_BYTES))
            stranger.write(back.number, b"forged")
            while not stranger.is_lost:
                await asyncio.sleep(0.01)
            honest = await line_to(back)
            honest.write(back.number, b"head")
            honest.end(back.number)
            assert await read(frames) == [b"head"]

    played(scene)


def test_a_replica_connects_once_and_again_where_the_line_was_lost() -> None:
    async def scene(board: Switchboard) -> None:
        with board.expecting() as (back, _):
            assert back is not None
            ours = Lines()
            first, second = await asyncio.gather(ours.to(back), ours.to(back))
            assert first is second and first is not None
            first._transport.abort()
            while not first.is_lost:
                await asyncio.sleep(0.01)
            third = await ours.to(back)
            assert third is not None and third is not first

    played(scene)


def test_where_nobody_listens_there_is_no_line() -> None:
    async def scene(board: Switchboard) -> None:
        with board.expecting() as (back, _):
            assert back is not None
            board.close()
            assert await Lines().to(back) is None

    played(scene)
