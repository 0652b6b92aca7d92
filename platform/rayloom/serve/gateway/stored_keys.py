"""The API keys that a gateway accepts, read periodically, so that a revoked key is soon refused.

If the store or the folder cannot be read, the keys last read stay valid for KEPT_SECONDS. After that every request is
refused with 503, because a key could have been revoked. Requests are answered again as soon as reading works.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from rayloom.artifacts.store import Store
from rayloom.errors import InputError
from rayloom.serve.api_keys import READ_SECONDS, KeyRing, listed, mounted
from rayloom.serve.transport.relay import SERVER, Refusal

KEPT_SECONDS = 60.0
"""How long keys are accepted after they were last read."""
SLOW_SECONDS = 10.0
"""A store that has not answered after this time counts as unreadable until it answers."""
_LOG = logging.getLogger("ray.serve")


class StoredKeys:
    """The keys of a store, and of a folder if one is given. Making it reads them, and raises if that fails."""

    def __init__(self, store: Store, folder: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._folder, self._clock = store, folder, clock
        self._rejected: tuple[str, ...] = ()
        self._failure = ""
        self._read_at, self._ring = clock(), KeyRing(listed(store), mounted(folder) if folder else ())
        self._watching: asyncio.Task[None] | None = None

    def ring(self) -> KeyRing:
        """The keys that are valid now. Raises Refusal if they were last read too long ago."""
        if self._clock() - self._read_at > KEPT_SECONDS:
            text = "The service cannot read its API keys at the moment, so it cannot tell which are valid."
            raise Refusal(503, text, kind=SERVER, code="keys_unavailable", retry_after_seconds=READ_SECONDS)
        return self._ring

    def watch(self) -> None:
        """Starts to read the keys every READ_SECONDS, in the event loop of the caller."""
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._read_for_ever())

    async def _read_for_ever(self) -> None:
        while True:
            await asyncio.sleep(READ_SECONDS)
            reading = asyncio.ensure_future(asyncio.to_thread(self._read))
            if not (await asyncio.wait({reading}, timeout=SLOW_SECONDS))[0]:
                self._note_failure(f"no answer within {SLOW_SECONDS:g} s")
                await asyncio.wait({reading})
            error = reading.exception()
            self._note_failure(f"{type(error).__name__}: {error}" if error is not None else "")

    def _read(self) -> None:
        """Reads all keys, without damaged records and files that are too short."""
        began, rejected = self._clock(), list[str]()
        if self._store.is_local and not Path(self._store.root).is_dir():
            raise FileNotFoundError(f"there is no store at {self._store.root}")  # such as a disk that is not mounted

        def reject(error: InputError) -> None:
            rejected.append(str(error))

        keys = KeyRing(listed(self._store, reject), mounted(self._folder, reject) if self._folder else ())
        # The time when reading began: a key revoked during it can still be in the result.
        self._ring, self._read_at = keys, began
        for text in sorted(set(rejected) - set(self._rejected)):
            _LOG.error("an API key is refused from now on: %s", text)
        self._rejected = tuple(rejected)

    def _note_failure(self, failure: str) -> None:
        """Logs when reading begins to fail and when it works again. `failure`: empty if it worked."""
        if failure and not self._failure:
            text = "the API keys cannot be read (%s): those known are accepted for %.0f s more, then requests get a 503"
            _LOG.error(text, failure, max(0.0, KEPT_SECONDS - (self._clock() - self._read_at)))
        elif self._failure and not failure:
            _LOG.warning("the API keys can be read again")
        self._failure = failure
