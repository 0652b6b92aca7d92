"""Keys at a running gateway: a revoked one is refused soon, whatever happens to the store meanwhile."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from rayloom.artifacts.store import Store
from rayloom.serve import api_keys
from rayloom.serve.gateway import stored_keys
from rayloom.serve.gateway.stored_keys import KEPT_SECONDS, StoredKeys
from rayloom.serve.transport.relay import Refusal

GOOD = "f" * 40


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_keys, "READ_SECONDS", 0.005)


def watched(keys: StoredKeys, test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        keys.watch()
        await test()

    asyncio.run(run())


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():
            await asyncio.sleep(0.002)


def broken(store: Store) -> Path:
    """The store's folder of keys with a file in its place."""
    folder = Path(store.root) / api_keys.FOLDER
    folder.rename(folder.with_name("away"))
    folder.write_text("")
    return folder


def mended(folder: Path) -> None:
    folder.unlink()
    folder.with_name("away").rename(folder)


def test_a_key_that_was_revoked_after_the_store_failed_is_refused(store: Store, logged: list[str]) -> None:
    key, secret = api_keys.create(store, "me")
    keys = StoredKeys(store, None)

    async def test() -> None:
        folder = broken(store)
        await until(lambda: any("cannot be read" in text for text in logged))
        assert keys.ring().owner(secret) == key
        mended(folder)
        api_keys.revoke(store, key.id)
        await until(lambda: keys.ring().owner(secret) is None)
        await until(lambda: len(logged) > 1)  # the ring is new before the log says so

    watched(keys, test)
    assert len(logged) == 2
    assert "accepted for" in logged[0]
    assert logged[1] == "the API keys can be read again"


def test_keys_that_could_not_be_read_for_a_minute_open_nothing_until_they_can(store: Store) -> None:
    _, secret = api_keys.create(store, "me")
    clock = Clock()
    keys = StoredKeys(store, None, clock)

    async def test() -> None:
        folder = broken(store)
        clock.now = KEPT_SECONDS
        assert keys.ring().owner(secret) is not None
        clock.now = KEPT_SECONDS + 1
        with pytest.raises(Refusal, match="cannot read its API keys") as refused:
            keys.ring()
        assert (refused.value.status, refused.value.code) == (503, "keys_unavailable")
        mended(folder)
        await until(lambda: keys._read_at == clock.now)
        assert keys.ring().owner(secret) is not None

    watched(keys, test)


def test_a_store_that_does_not_answer_counts_as_one_that_fails(
    store: Store, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setattr(stored_keys, "SLOW_SECONDS", 0.05)
    clock, answers = Clock(), threading.Event()
    key, secret = api_keys.create(store, "me")
    keys = StoredKeys(store, None, clock)
    listed = stored_keys.listed

    def slow(*arguments: object) -> list[api_keys.ApiKey]:
        answers.wait(5)
        return listed(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stored_keys, "listed", slow)

    async def test() -> None:
        await until(lambda: any("no answer within" in text for text in logged))
        clock.now = KEPT_SECONDS + 1
        with pytest.raises(Refusal):
            keys.ring()
        api_keys.revoke(store, key.id)
        answers.set()
        await until(lambda: keys._read_at == clock.now)
        assert keys.ring().owner(secret) is None

    watched(keys, test)


def test_a_store_that_vanishes_is_one_that_cannot_be_read(store: Store, logged: list[str]) -> None:
    _, secret = api_keys.create(store, "me")
    keys = StoredKeys(store, None)

    async def test() -> None:
        shutil.rmtree(store.root)
        await until(lambda: any("there is no store" in text for text in logged))
        assert keys.ring().owner(secret) is not None

    watched(keys, test)


@pytest.mark.parametrize("content", [b"hunter2", b"", b"\xff\xfe" * 40], ids=["short", "empty", "not-text"])
def test_a_secret_that_becomes_unsafe_opens_nothing_and_the_others_go_on(
    store: Store, tmp_path: Path, logged: list[str], content: bytes
) -> None:
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "alice").write_text(GOOD)
    (folder / "bob").write_text(GOOD + "b")
    key, secret = api_keys.create(store, "me")
    keys = StoredKeys(store, folder)

    async def test() -> None:
        (folder / "bob").write_bytes(content)
        await until(lambda: keys.ring().owner(GOOD + "b") is None)
        assert keys.ring().owner(GOOD) is not None
        api_keys.revoke(store, key.id)
        await until(lambda: keys.ring().owner(secret) is None)
        (folder / "bob").write_text(GOOD + "c")
        await until(lambda: keys.ring().owner(GOOD + "c") is not None)

    watched(keys, test)
    (said,) = logged
    assert "bob" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("content", ["{broken", "[]", json.dumps({"id": "x", "from": "a later version"})])
def test_a_damaged_record_opens_nothing_and_the_others_go_on(store: Store, logged: list[str], content: str) -> None:
    key, secret = api_keys.create(store, "me")
    keys = StoredKeys(store, None)

    async def test() -> None:
        (Path(store.root) / api_keys.FOLDER / "x.json").write_text(content)
        await until(lambda: bool(logged))
        api_keys.revoke(store, key.id)
        await until(lambda: keys.ring().owner(secret) is None)

    watched(keys, test)
    assert len(logged) == 1
