"""Where the files of trials lie, and what each process is told of them.

data/KEY/               tokenised rows: made once for all trials whose data fields are alike
trials/0003/0/          log and checkpoints of trial 3; /1/ after it went on from another trial's weights, …
trials/0003/result/     its finished model or adapter
leave                   exists when every running trial should save and leave
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rayloom.specs.space import Values, substituted
from rayloom.specs.train import TrainSpec
from rayloom.specs.tune import TuneSpec
from rayloom.train.job import TrainJob
from rayloom.train.log import read_log
from rayloom.tune.history import Trial
from rayloom.tune.search import Run
from rayloom.tune.trial import TrialTask

Prepare = Callable[[TrainSpec, Path], TrainJob]
"""Makes the data of a training job in a folder, or finds it there finished; the job's own folders are set later."""

SHAPES_DATA = ("base", "data", "sequence_length_tokens", "seed")
"""Fields of a training job that decide which rows it sees."""


@dataclass
class TrialFiles:
    """The files of one search, under the folder that survives a kill."""

    spec: TuneSpec
    folder: Path
    prepare: Prepare
    _prepared: dict[str, TrainJob] = field(default_factory=dict)

    def job(self, number: int, segment: int, values: Values) -> TrainJob:
        """The training job of a trial; its data is made if no trial before had the same."""
        plain = substituted(self.spec.plain_train, values)
        spec = TrainSpec.model_validate_json(json.dumps(plain), strict=True)
        work = self._segment(number, segment)
        work.mkdir(parents=True, exist_ok=True)
        return replace(self._with_data(spec, plain), spec=spec, work=work, out=self.result(number))

    def task(self, run: Run) -> TrialTask:
        source = None
        if run.source is not None:
            checkpoints = self._segment(run.source.trial, run.source.segment) / "checkpoints"
            source = checkpoints / f"step-{run.source.step:08d}"
        job = self.job(run.trial, run.segment, run.values)
        return TrialTask(run.trial, job, run.until_step, source, self._leave)

    def result(self, number: int) -> Path:
        """Where the trial's model is, once it is finished."""
        return self._trial(number) / "result"

    def events(self, trial: Trial) -> Iterator[dict[str, Any]]:
        """The log of the trial's training, step by step, over all its segments."""
        ends = [copy.step for copy in trial.copies]
        for segment, end in enumerate([*ends, None]):
            for event in read_log(self._segment(trial.number, segment) / "metrics.jsonl"):
                if end is None or event["step"] <= end:
                    yield event

    def keep_only(self, numbers: Iterable[int], ended: Iterable[Trial]) -> None:
        """Removes the weights of ended trials that are not among `numbers`; their logs stay."""
        kept = set(numbers)
        for trial in ended:
            if trial.number not in kept:
                shutil.rmtree(self.result(trial.number), ignore_errors=True)
                for segment in self._trial(trial.number).glob("[0-9]*"):
                    shutil.rmtree(segment / "checkpoints", ignore_errors=True)
                    shutil.rmtree(segment / "best", ignore_errors=True)

    def ask_to_leave(self) -> None:
        self._leave.touch()

    def ask_nobody_to_leave(self) -> None:
        self._leave.unlink(missing_ok=True)

    @property
    def _leave(self) -> Path:
        return self.folder / "leave"

    def _trial(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"

    def _segment(self, number: int, segment: int) -> Path:
        return self._trial(number) / str(segment)

    def _with_data(self, spec: TrainSpec, plain: dict[str, Any]) -> TrainJob:
        shaping = json.dumps([plain.get(name) for name in SHAPES_DATA], sort_keys=True)
        key = hashlib.sha256(shaping.encode()).hexdigest()[:12]
        if key not in self._prepared:
            self._prepared[key] = self.prepare(spec, self.folder / "data" / key)
        return self._prepared[key]
