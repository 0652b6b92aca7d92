"""A job's log as it grows, over the websocket of Ray's Jobs API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

import aiohttp

from rayloom.errors import ResourceError


def log_pieces(address: str, job_id: str, headers: Mapping[str, str]) -> Iterator[str]:
    """Pieces of text until the job ends. Raises ResourceError where the stream breaks before."""
    loop = asyncio.new_event_loop()
    pieces = _pieces(address, job_id, headers)
    try:
        while True:
            try:
                yield loop.run_until_complete(anext(pieces))
            except StopAsyncIteration:
                return
            except aiohttp.ClientError as error:
                fix = "`rayloom jobs status` says how the job stands; `rayloom jobs logs --follow` begins again."
                raise ResourceError(f"The job's log broke off: {error}", where=address, fix=fix) from None
    finally:
        loop.run_until_complete(pieces.aclose())
        loop.close()


async def _pieces(address: str, job_id: str, headers: Mapping[str, str]):  # type: ignore[no-untyped-def]
    url = f"{address}/api/jobs/{job_id}/logs/tail"
    async with aiohttp.ClientSession(headers=dict(headers)) as session, session.ws_connect(url) as socket:
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                yield message.data
            elif message.type == aiohttp.WSMsgType.ERROR:
                raise aiohttp.ClientError(str(socket.exception()))
