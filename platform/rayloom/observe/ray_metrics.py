"""Prometheus metrics of running jobs, exported by Ray with its own; the label `run` is the job's name.

Ray prefixes each name with `ray_`. Speeds are rates of the counters. The driver of a job sets them, not its workers, so
each series exists once. Scores are set by a detached actor, since they must outlive the evaluation that measured them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge

RUN = ("run",)
MEASURED = (*RUN, "measure")
ROLLOUT_GAUGES = ("reward", "answer_tokens", "cut_share", "same_reward_share", "written_tokens_per_second")


class TrainingMetrics:
    """A training run's loss and progress, from its event log."""

    def __init__(self, run: str) -> None:
        self._run = {"run": run}
        self._loss = Gauge("rayloom_training_loss", "Of the last step, in nats a token.", RUN)
        self._step = Gauge("rayloom_training_step", "The last step.", RUN)
        self._tokens = Counter("rayloom_training_tokens_total", "Tokens trained on by this process.", RUN)
        self._bad_steps = Counter("rayloom_training_bad_steps_total", "Steps whose batch was not trained on.", RUN)
        self._rollout = Gauge(
            "rayloom_rollout", "Of the last round of answers: reward and what it is made of.", MEASURED
        )
        self._heldout = Gauge("rayloom_heldout_loss", "Of the last measurement, in nats a token.", (*RUN, "rows"))

    def show(self, events: Iterable[Mapping[str, Any]]) -> None:
        for event in events:
            if event["event"] == "step":
                self._loss.set(float(event["loss"]), self._run)
                self._step.set(int(event["step"]), self._run)
                if event["tokens"]:
                    self._tokens.inc(int(event["tokens"]), self._run)
            elif event["event"] == "rollout":
                values = {name: event.get(name) for name in ROLLOUT_GAUGES} | event["parts"]
                for name, value in values.items():
                    if value is not None:
                        self._rollout.set(float(value), {**self._run, "measure": name})
            elif event["event"] == "bad_step":
                self._bad_steps.inc(1, self._run)
            elif event["event"] == "heldout":
                self._heldout.set(float(event["loss"]), {**self._run, "rows": str(event["name"])})


class DataMetrics:
    """Rows that a cleaning job read, kept and dropped."""

    def __init__(self, run: str) -> None:
        self._run = {"run": run}
        self._rows = Counter("rayloom_data_rows_total", "Rows that could be read.", RUN)
        self._bytes = Counter("rayloom_data_read_bytes_total", "Bytes of sources read.", RUN)
        self._dropped = Counter("rayloom_data_dropped_rows_total", "Rows that a rule dropped.", (*RUN, "reason"))
        self._bad = Counter("rayloom_data_bad_rows_total", "Rows that could not be read.", (*RUN, "reason"))

    def count(self, num_rows: int, num_bytes: int, dropped: Mapping[str, int], bad: Mapping[str, int]) -> None:
        """Adds the counts of one chunk; `dropped` and `bad` are rows by reason."""
        for counter, number in ((self._rows, num_rows), (self._bytes, num_bytes)):
            if number:
                counter.inc(number, self._run)
        for counter, numbers in ((self._dropped, dropped), (self._bad, bad)):
            for reason, number in numbers.items():
                counter.inc(number, {**self._run, "reason": reason})


@dataclass(frozen=True)
class Score:
    """One measure of one check on one model."""

    model: str
    """Name and version of its artifact."""
    check: str
    measure: str
    """Such as accuracy or nats per token."""
    value: float


class ScoreBoard:
    """The scores of all models that were evaluated on this cluster."""

    def __init__(self) -> None:
        text = "What a check of an evaluation found on a model."
        self._score = Gauge("rayloom_evaluation_score", text, ("model", "check", "measure"))

    def put(self, scores: Sequence[Score]) -> None:
        for score in scores:
            self._score.set(score.value, {"model": score.model, "check": score.check, "measure": score.measure})


def tell_scores(scores: Sequence[Score]) -> None:
    """Sets scores on the connected cluster's board, a detached actor that outlives this process.

    The actor runs on the head node, so that it does not keep an idle worker node from being scaled down.
    """
    board = ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001})(ScoreBoard).options(
        name="score-board", namespace="rayloom", lifetime="detached", get_if_exists=True
    )
    ray.get(board.remote().put.remote(list(scores)))
