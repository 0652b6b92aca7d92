"""The phases of a replica's start, of what it measures and what vLLM prints."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from rayloom.serve.replicas.start_times import StartTimes, seconds_of_this_process

MEASURED = {"process": 3.0, "files": 0.5, "imports": 9.0, "engine": 30.0, "first answer": 2.0}


def test_the_engines_share_is_what_its_processes_do_not_explain() -> None:
    times = StartTimes.of(MEASURED, weights=4.0, graphs=18.0, compiling=16.0)
    assert times.engine == pytest.approx(8.0)
    assert times.total == pytest.approx(sum(MEASURED.values()))
    assert str(times) == (
        "started in 44.5 s: process 3.0, imports 9.0, files 0.5, engine's processes 8.0, weights 4.0, "
        "graphs 18.0 (compiling 16.0), first answer 2.0"
    )
    assert StartTimes(**asdict(times)) == times


def test_weights_that_workers_of_ray_read_are_in_the_engines_share() -> None:
    times = StartTimes.of(MEASURED, weights=None, graphs=18.0, compiling=16.0)
    assert times.total == pytest.approx(sum(MEASURED.values()))
    assert "engine's processes and weights 12.0, graphs 18.0" in str(times)


def test_a_process_has_begun_before_it_asks() -> None:
    assert seconds_of_this_process() > 0
