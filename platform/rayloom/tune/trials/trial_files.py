"""The files of a search's trials, and the training job of each trial.

data/KEY/               tokenised rows: made once for all trials whose data fields are alike
trials/0003/0/          log and checkpoints of trial 3; /1/ after it first copied another trial's weights, …
trials/0003/result/     its finished model or adapter
ray/session-1/          Ray Tune's records of each trial, in each session

If nodes share no disk, this is the folder of the driver's node; trials have such folders on theirs, whose copies are in
the store. There the model is in trials/0003/0/result/.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rayloom.artifacts.store import Artifact, Store
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.specs.search.space import Values, substituted
from rayloom.specs.train import TrainSpec
from rayloom.specs.tune import TuneSpec
from rayloom.train.job import TrainJob, rows_of_run
from rayloom.train.loop.run_log import read_log
from rayloom.train.prepare import RESULT_NAME, job_of, job_with_rows
from rayloom.train.stored_rows import stored_rows
from rayloom.tune.search import TrialRun
from rayloom.tune.strategies.history import Trial
from rayloom.tune.trials.trial import TrialTask

SHAPES_ROWS = ("base", "data", "replay", "objective", "task", "sequence_length_tokens", "seed", "rollouts", "rewards")
"""Fields of a training job on which its rows depend."""
RAY_RECORDS = ("params.json", "result.json", "progress.csv", "error.txt", "events.out.tfevents.*")
"""The files of Ray Tune that are kept of a trial, for its own tools and TensorBoard; pickles are not kept."""


@dataclass
class TrialFiles:
    """The files of one search, in the build's work folder, which survives a kill."""

    spec: TuneSpec
    parents: Mapping[str, Artifact]
    """Artifacts that the search refers to, by dotted path."""
    folder: Path
    copy: WorkCopy | None = None
    """Copy of `folder` in the store, if nodes share no disk."""
    store: Store | None = None
    """Where rows are kept for other searches and runs."""
    _with_rows: dict[str, TrainJob] = field(default_factory=dict)
    _removed: set[int] = field(default_factory=set)
    """Trials whose weights were removed."""

    def prepare_rows(self) -> None:
        """Writes the rows of the training job as written; all trials use them, unless the space varies the data.

        Raises InputError if rows, base and tokenizer do not match.
        """
        self._job_with_rows({})

    def job(self, number: int, segment: int, values: Values) -> TrainJob:
        """The training job of a trial; writes its rows if no earlier trial used the same."""
        work = self._segment(number, segment)
        work.mkdir(parents=True, exist_ok=True)
        job = replace(self._job_with_rows(values), work=work, out=self.result(number, segment))
        return job if self.copy is None else replace(job, copy=self.copy.inside(self._path(work)))

    def length(self, values: Values) -> int:
        """Steps of a complete trial with these values."""
        return self._job_with_rows(values).num_steps

    def rows_folder(self, values: Values) -> Path:
        """The folder of the tokenised rows of trials with these values."""
        return self._job_with_rows(values).work

    def task(self, run: TrialRun, is_asked_to_pause: Callable[[], bool] = lambda: False) -> TrialTask:
        source: Path | WorkCopy | None = None
        if run.source is not None:
            checkpoints = self._segment(run.source.trial, run.source.segment) / "checkpoints"
            source = checkpoints / f"step-{run.source.step:08d}"
            source = source if self.copy is None else self.copy.inside(self._path(source))
        job = self.job(run.trial, run.segment, run.values)
        checks = ((check, self.parents.get(f"checks.{n}.rows_of")) for n, check in enumerate(self.spec.checks))
        return TrialTask(
            run.trial, job, run.until_step, source, is_asked_to_pause, tuple(checks), self.training_parents
        )

    @property
    def training_parents(self) -> dict[str, Artifact]:
        """The artifacts that the training job refers to, by dotted path in its spec."""
        return {path.removeprefix("train."): a for path, a in self.parents.items() if path.startswith("train.")}

    def result(self, number: int, segment: int = 0) -> Path:
        """The folder of the trial's model after it has finished."""
        return self._trial(number) / "result" if self.copy is None else self._segment(number, segment) / RESULT_NAME

    def write_logs(self, folder: Path, trials: Iterable[Trial]) -> None:
        """Writes `NNNN.jsonl` for each trial: the log of its training, step by step."""
        folder.mkdir()
        for trial in trials:
            lines = [json.dumps(event) for event in self._events(trial)]
            (folder / f"{trial.number:04d}.jsonl").write_text("".join(f"{line}\n" for line in lines))

    @property
    def ray(self) -> Path:
        """The folder into which Ray Tune writes."""
        return self.folder / "ray"

    def write_ray_records(self, folder: Path) -> None:
        """Copies Ray Tune's records of the trials of all sessions, under their original names."""
        for pattern in RAY_RECORDS:
            for file in sorted(self.ray.glob(f"session-*/*/{pattern}")):
                kept = folder / file.relative_to(self.ray)
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, kept)

    def _events(self, trial: Trial) -> Iterator[dict[str, Any]]:
        """The training log's events of all segments, each up to the step at which the next began."""
        ends = [copy.step for copy in trial.copies]
        for segment, end in enumerate([*ends, None]):
            folder = self._segment(trial.number, segment)
            if self.copy is not None:
                self.copy.fetch(self._path(folder / "metrics.jsonl"))
            for event in read_log(folder / "metrics.jsonl"):
                if end is None or event["step"] <= end:
                    yield event

    def keep_only(self, numbers: Iterable[int], ended: Iterable[Trial]) -> None:
        """Removes the weights of ended trials that are not in `numbers`; keeps their logs.

        A trial of several workers that is stopped takes one more step, and removes its checkpoints itself.
        """
        kept, are_several = set(numbers), self.spec.train.workers.num_workers > 1
        for trial in ended:
            if trial.number in kept or trial.number in self._removed or (are_several and trial.outcome == "stopped"):
                continue
            self._removed.add(trial.number)
            segments = [self._segment(trial.number, segment) for segment in range(len(trial.copies) + 1)]
            names = ("checkpoints", "best", RESULT_NAME)
            for folder in (self.result(trial.number), *(segment / name for segment in segments for name in names)):
                shutil.rmtree(folder, ignore_errors=True)
                if self.copy is not None:
                    self.copy.discard(self._path(folder))

    def remove(self, number: int) -> None:
        """Removes all of a trial, its log too."""
        shutil.rmtree(self._trial(number), ignore_errors=True)
        if self.copy is not None:
            self.copy.remove(self._path(self._trial(number)))

    def save(self, name: str) -> None:
        """Copies one of the search's own files to the store."""
        if self.copy is not None:
            self.copy.put(name)

    def _path(self, folder: Path) -> str:
        return folder.relative_to(self.folder).as_posix()

    def _trial(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"

    def _segment(self, number: int, segment: int) -> Path:
        return self._trial(number) / str(segment)

    def _job_with_rows(self, values: Values) -> TrainJob:
        plain = substituted(self.spec.plain_job, values)
        spec = TrainSpec.model_validate_json(json.dumps(plain), strict=True)
        method = spec.preference and spec.preference.type
        shaping = json.dumps([spec.packs_rows, method, *(plain.get(name) for name in SHAPES_ROWS)], sort_keys=True)
        key = hashlib.sha256(shaping.encode()).hexdigest()[:12]
        if key not in self._with_rows:
            folder = self.folder / "rows" / key
            folder.mkdir(parents=True, exist_ok=True)
            own = self.training_parents
            if self.copy is None:
                self._with_rows[key] = job_of(spec, own, folder, folder / "unused", store=self.store)
            else:
                rows = self.copy.inside(self._path(folder))
                job = job_with_rows(spec, own, folder, folder / "unused", rows)
                self._with_rows[key] = replace(job, rows=rows)
        known = self._with_rows[key]
        sizes = [len(stored_rows(spec, rows)) for rows in known.train]
        num_rows = rows_of_run(spec, sizes, known.shares)
        return replace(known, spec=spec, num_rows=num_rows, micro_batch_sequences=spec.micro_batch_sequences)
