"""One trial in this process, alone and with made-up other workers: what it reports, and how it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.training_jobs import small_job

from rayloom.artifacts.store import Artifact
from rayloom.train.job import TrainJob
from rayloom.train.loop.run_log import read_log
from rayloom.tune.trials.trial import TrialTask, run_trial


def task_in(folder: Path, until_step: int | None = None, **changes: Any) -> TrialTask:
    job = small_job(folder, **{"num_steps": 6, "evaluate_every_steps": 2, **changes})
    return TrialTask(0, job, until_step, None, (folder / "pause").exists)


@dataclass
class Reports:
    """What a trial reported; from the given measurement on, it is told to stop or its connections break."""

    stops_at: int | None = None
    breaks_at: int | None = None
    heard: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, report: dict[str, Any]) -> None:
        self.heard.append(report)
        if report["message"] == "measured" and report["step"] == self.stops_at:
            raise SystemExit(0)
        if report["message"] == "measured" and report["step"] == self.breaks_at:
            raise RuntimeError("[gloo] Connection closed by peer")

    @property
    def said(self) -> list[tuple[str, int]]:
        return [(report["message"], report["step"]) for report in self.heard]


@dataclass
class MadeUpWorkers:
    """Workers of which some failed."""

    errors: Sequence[BaseException] = ()
    begun: list[TrainJob] = field(default_factory=list)

    def begin(self, job: TrainJob, parents: Mapping[str, Artifact]) -> None:
        self.begun.append(job)

    def end(self, within_seconds: float | None = None) -> list[BaseException]:
        return list(self.errors)


class ActorDiedError(Exception):
    """As Ray names it."""


def test_a_trial_reports_each_measurement_and_its_result(tmp_path: Path) -> None:
    task, reports = task_in(tmp_path), Reports()
    run_trial(task, reports)
    assert reports.said == [("measured", 0), ("measured", 2), ("measured", 4), ("measured", 6), ("finished", 6)]
    assert reports.heard[-1]["metrics"]["heldout_loss"] == reports.heard[-2]["metrics"]["heldout_loss"]
    assert reports.heard[-1]["metrics"]["trainable_parameters"] > 1000


def test_a_trial_alone_stops_where_it_is_told_to(tmp_path: Path) -> None:
    task, reports = task_in(tmp_path), Reports(stops_at=2)
    with pytest.raises(SystemExit):
        run_trial(task, reports)
    assert reports.said[-1] == ("measured", 2)
    assert max(event["step"] for event in read_log(task.job.log)) == 2


def test_a_trial_with_others_takes_the_step_in_which_all_learn_that_it_stops(tmp_path: Path) -> None:
    task, reports, others = task_in(tmp_path), Reports(stops_at=2), MadeUpWorkers()
    with pytest.raises(SystemExit):
        run_trial(task, reports, others)
    assert reports.said[-1] == ("measured", 2)
    assert others.begun == [task.job]
    assert max(event["step"] for event in read_log(task.job.log)) == 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ActorDiedError("The actor died unexpectedly"), ("crashed", "one of its workers died")),
        (MemoryError("no room"), ("failed", "out of memory: no room")),
        (ValueError("odd"), ("failed", "ValueError: odd")),
    ],
)
def test_what_failed_first_among_all_workers_is_the_trials_end(
    tmp_path: Path, error: Exception, said: tuple[str, str]
) -> None:
    reports = Reports(breaks_at=4)
    with pytest.raises(RuntimeError, match="Connection closed"):
        run_trial(task_in(tmp_path), reports, MadeUpWorkers([error]))
    assert (reports.heard[-1]["message"], reports.heard[-1]["reason"]) == said
    assert reports.heard[-1]["step"] == 4


def test_a_member_of_a_population_leaves_with_a_checkpoint(tmp_path: Path) -> None:
    reports = Reports()
    run_trial(task_in(tmp_path, until_step=4), reports)
    assert reports.said[-1] == ("paused", 4)
    run_trial(task_in(tmp_path), reports)
    assert reports.said[-3:] == [("paused", 4), ("measured", 6), ("finished", 6)]
