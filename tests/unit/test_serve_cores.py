"""Replicas on one machine hold cores of their own, and death gives them back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from rayloom.serve.replicas.cores import CoreLease, cpu_limit, physical_first
from rayloom.serve.replicas.cores import lease_cores as lease_in

Leasing = Callable[[int, Iterable[int]], CoreLease | None]


@pytest.fixture
def lease_cores(tmp_path: Path) -> Iterator[Leasing]:
    """Leases in a folder of the test's own, given back at its end."""
    held: list[CoreLease] = []

    def take(num_cores: int, candidates: Iterable[int]) -> CoreLease | None:
        found = lease_in(num_cores, candidates, tmp_path)
        held.extend([found] if found else [])
        return found

    yield take
    for found in held:
        found.release()


def test_two_replicas_get_different_cores(lease_cores: Leasing) -> None:
    first, second = lease_cores(2, range(4)), lease_cores(2, range(4))
    assert first is not None
    assert second is not None
    assert (first.cores, second.cores) == ((0, 1), (2, 3))


def test_a_replica_that_does_not_fit_takes_nothing(lease_cores: Leasing) -> None:
    held = lease_cores(2, range(3))
    assert held is not None
    assert lease_cores(2, range(3)) is None
    rest = lease_cores(1, range(3))
    assert rest is not None
    assert rest.cores == (2,)


def test_released_cores_are_free_again(lease_cores: Leasing) -> None:
    held = lease_cores(2, range(2))
    assert held is not None
    held.release()
    again = lease_cores(2, range(2))
    assert again is not None
    assert again.cores == (0, 1)


_HOLD = """
import sys, time
from pathlib import Path
from rayloom.serve.replicas.cores import lease_cores
held = lease_cores(1, range(1), Path(sys.argv[1]))
print(held.cores, flush=True)
time.sleep(60)
"""


def test_a_killed_replica_gives_its_core_back(lease_cores: Leasing, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "(0,)\n"
        assert lease_cores(1, range(1)) is None
        holder.kill()
        holder.wait()
        again = lease_cores(1, range(1))
    assert again is not None
    assert again.cores == (0,)


def test_processes_started_inside_run_on_the_leased_cores_only(lease_cores: Leasing) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    held = lease_cores(1, allowed[-1:])
    assert held is not None
    show = [sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))"]
    with held.inherited():
        inside = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    assert inside == f"{allowed[-1:]}\n"
    assert sorted(os.sched_getaffinity(0)) == allowed


@pytest.mark.parametrize(("text", "limit"), [("max 100000\n", None), ("150000 100000\n", 1.5)])
def test_the_limit_of_a_control_group_is_read(text: str, limit: float | None) -> None:
    assert cpu_limit(text) == limit


@pytest.mark.parametrize(
    ("siblings", "order"),
    [
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, (0, 1, 2, 3)),
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, (0, 2, 1, 3)),
        ({0: "0", 1: "1"}, (0, 1)),
    ],
    ids=["far numbers", "neighbours", "no second threads"],
)
def test_whole_physical_cores_come_first(siblings: dict[int, str], order: tuple[int, ...]) -> None:
    assert physical_first(siblings, siblings.__getitem__) == order
