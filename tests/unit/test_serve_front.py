"""A version that gets no requests any more: those that it computes end there, those that still wait go elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from rayloom.serve.gateway.deployment import ReplicaBackend
from rayloom.serve.transport.answer_channel import AnswerReceiver
from rayloom.serve.transport.relay import Call, ReplicaLost

CALL = Call("/v1/completions", (), b"{}")


@dataclass
class SleepingAnswer:
    """As Serve's handle gives it: nothing comes until a replica has taken the request, and after `taken` frames do."""

    taken: asyncio.Event = field(default_factory=asyncio.Event)
    is_cancelled: bool = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await self.taken.wait()
        yield b"head"
        await asyncio.sleep(0)
        yield b"piece"

    def cancel(self) -> None:
        self.is_cancelled = True


def backend_of(answer: SleepingAnswer) -> ReplicaBackend:
    handle: Any = SimpleNamespace(http=SimpleNamespace(remote=lambda *_: answer))
    return ReplicaBackend(handle, AnswerReceiver())


def test_who_waits_for_a_version_that_left_is_asked_elsewhere() -> None:
    async def scene() -> None:
        answer = SleepingAnswer()
        backend = backend_of(answer)
        asked = asyncio.ensure_future(anext(backend.ask(CALL)))
        await asyncio.sleep(0.01)
        assert not asked.done()
        backend.retire()
        with pytest.raises(ReplicaLost):
            await asyncio.wait_for(asked, 1)
        assert answer.is_cancelled
        assert not backend.unaccepted

    asyncio.run(scene())


def test_what_a_version_that_left_computes_is_finished() -> None:
    async def scene() -> None:
        answer = SleepingAnswer()
        answer.taken.set()
        backend = backend_of(answer)
        frames = backend.ask(CALL)
        assert await anext(frames) == b"head"
        backend.retire()
        assert [frame async for frame in frames] == [b"piece"]
        assert not answer.is_cancelled

    asyncio.run(scene())
