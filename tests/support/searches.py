"""Searches over made-up trials: what a process would measure is a formula, so that every decision can be followed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayloom.specs.tune import TuneSpec
from rayloom.tune.search import Search, TrialRun
from rayloom.tune.strategies.history import Journal

NUM_STEPS = 90
EVERY = 10


def tune_spec(**changes: Any) -> TuneSpec:
    """A valid search; `train` changes go into its training job."""
    train = {
        "kind": "train", "name": "tuned", "base": "artifact:small", "data": {"type": "corpus", "corpus": "artifact:c"},
        "adapter": {"type": "lora", "rank": 16}, "sequence_length_tokens": 128, "micro_batch_sequences": 2,
        "global_batch_tokens": 512, "num_steps": NUM_STEPS, "learning_rate": 2e-4, "evaluate_every_steps": EVERY,
    }  # fmt: skip
    plain = {
        "kind": "tune", "name": "search", "train": train | changes.pop("train", {}),
        "space": {
            "learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-2},
            "adapter.rank": {"type": "choice", "values": [4, 8, 16]},
        },
        "budget": {"num_trials": 16}, "searcher": {"type": "random"},
    }  # fmt: skip
    return TuneSpec.model_validate(plain | changes)


def loss(values: dict[str, Any], step: int) -> float:
    """Best at a learning rate of 1e-3 and rank 8, and falling with the steps."""
    distance = abs(math.log10(values["learning_rate"]) + 3) + 0.1 * abs(values.get("adapter.rank", 8) - 8) / 4
    return 2.0 + distance + 10 / (10 + step)


@dataclass
class Laboratory:
    """Trains made-up trials for a search, as many at once as it gives out, in an order drawn by `seed`."""

    search: Search
    measure: Callable[[dict[str, Any], int], float] = loss
    seed: int = 0
    at_most_reports: int = 10**9
    """After so many measurements everything stops as if the machine had gone."""
    log: list[tuple[int, int]] = field(default_factory=list)
    """Trial and step of every measurement, in order."""
    starts: list[tuple[int, int]] = field(default_factory=list)
    """Trial and step from which each run went on."""
    copied: dict[tuple[int, int], int] = field(default_factory=dict)
    """By trial and segment, the donor's step when its checkpoint was copied."""

    def work(self) -> Laboratory:
        draw = random.Random(self.seed)
        active: dict[int, tuple[TrialRun, int]] = {}
        while len(self.log) < self.at_most_reports and not self.search.is_over:
            while (run := self.search.next_run()) is not None:
                step = self.search.history.trials[run.trial].step
                self.starts.append((run.trial, step))
                active[run.trial] = (run, step)
            number = draw.choice(sorted(active))
            run, step = active[number]
            if run.source is not None and (number, run.segment) not in self.copied:
                self.copied[number, run.segment] = self.search.history.trials[run.source.trial].step
                self.search.copied(number)
                continue
            step += EVERY
            self.log.append((number, step))
            goes_on = self.search.measured(number, step, {"heldout_loss": self.measure(run.values, step)})
            active[number] = (run, step)
            if not goes_on:
                del active[number]
            elif self.search.exhausted_budget() is not None or step == run.until_step:
                self.search.paused(number)
                del active[number]
            elif step >= NUM_STEPS:
                self.search.finished(number, step, {"heldout_loss": self.measure(run.values, step), "seconds": 1.0})
                del active[number]
        return self


def search_in(folder: Path, spec: TuneSpec, **options: Any) -> Search:
    return Search(
        spec, Journal(folder / "journal.jsonl"), **{"num_concurrent": 2, "length_of": lambda _: NUM_STEPS, **options}
    )
