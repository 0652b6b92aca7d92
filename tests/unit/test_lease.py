"""Leases on a filesystem without locks: one holder, waiting, taking over from the dead, noticing a loss."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator

import fsspec
import pytest

from rayloom.artifacts import lock as leases
from rayloom.artifacts.lock import Lease, leased
from rayloom.errors import ResourceError


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(leases, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.02)
    yield f"/{uuid.uuid4().hex}/name/.version.lease"


MEMORY = fsspec.filesystem("memory")


def test_a_lease_is_gone_when_it_was_released(place: str) -> None:
    with leased(MEMORY, place) as lease:
        lease.check()
        record = json.loads(MEMORY.cat_file(place))
        assert record["token"] == lease.token
    assert not MEMORY.exists(place)


def test_a_second_holder_waits_for_the_first(place: str) -> None:
    order: list[str] = []
    waits = threading.Event()

    def second() -> None:
        with leased(MEMORY, place, waits.set):
            order.append("second")

    with leased(MEMORY, place):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(5)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_a_living_holder_renews_and_is_not_robbed(place: str) -> None:
    with leased(MEMORY, place, lease_seconds=0.3, renew_seconds=0.05) as held:
        taken = threading.Event()

        def robber() -> None:
            with leased(MEMORY, place, lease_seconds=0.3, renew_seconds=0.05):
                taken.set()

        thread = threading.Thread(target=robber)
        thread.start()
        assert not taken.wait(1.0)
        held.check()
    assert taken.wait(5)
    thread.join(5)


def test_a_dead_holder_is_taken_over_and_would_notice(place: str) -> None:
    MEMORY.makedirs(place.rpartition("/")[0], exist_ok=True)
    dead = Lease(MEMORY, place, 0.2)
    assert dead.take()
    started = time.monotonic()
    with leased(MEMORY, place, lease_seconds=0.2, renew_seconds=0.05) as heir:
        assert time.monotonic() - started >= 0.2
        heir.check()
        with pytest.raises(ResourceError, match="Another machine took over"):
            dead.check()
        dead.renew_until_ended(0.0)  # returns at once: what is not its own is left alone
        heir.check()
        dead.release()
        heir.check()


def test_a_lease_cut_off_from_the_store_for_too_long_stops_renewing(place: str) -> None:
    class CutOff(type(MEMORY)):  # type: ignore[misc]
        cachable = False

        def cat_file(self, path: str, *args: object, **kwargs: object) -> bytes:
            raise OSError("unreachable")

    MEMORY.makedirs(place.rpartition("/")[0], exist_ok=True)
    lease = Lease(MEMORY, place, 0.1)
    before = time.monotonic()
    assert lease.take()
    lease.filesystem = CutOff()
    lease.renew_until_ended(0.02)
    assert time.monotonic() - before >= 0.1


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b"{}"])
def test_a_record_that_is_being_written_is_nobodys(record: bytes, place: str) -> None:
    MEMORY.makedirs(place.rpartition("/")[0], exist_ok=True)
    MEMORY.pipe_file(place, record)
    with pytest.raises(ResourceError):
        Lease(MEMORY, place, 1.0).check()
