"""`kind: generate`: rounds of requests to a writer, each finished round on disk; a killed job goes on where it was."""

from __future__ import annotations

import itertools
import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.errors import QualityError, ResourceError
from rayloom.generate.asks import Ask, Found, ModelAnswer, Rounds, Writer, driven
from rayloom.generate.diversity import cluster_shares, verb_noun_counts
from rayloom.generate.prompts import Prompts
from rayloom.generate.tasks.registry import opened
from rayloom.generate.tasks.task import Task
from rayloom.generate.writers import Asking, EndpointWriter, VllmWriter, writing_subject
from rayloom.models.responders.subject import Subject
from rayloom.models.vllm_process import vllm_environment
from rayloom.observe.progress import progress, say
from rayloom.observe.ray_session import connect
from rayloom.reading.sources import row_files
from rayloom.rewards.opening import opened as opened_rewards
from rayloom.specs.generate import GenerateSpec
from rayloom.specs.generation.engines import EndpointEngine, Engine, ModelEngine
from rayloom.specs.generation.tasks import LabelsTask, SelfInstructTask

ROWS_FILE, DROPPED_FILE = "rows.jsonl", "dropped.jsonl"
NUM_BEFORE_LABEL_SHARES = 100
NUM_SAMPLES = 3
NUM_VERBS = 20


def run(spec: GenerateSpec, build: Build) -> Outcome:
    """The rows that were kept, those that were dropped with their reasons, and the prompts."""
    prompts = Prompts(None if spec.prompts is None else build.job_directory / Path(spec.prompts).expanduser())
    files = row_files(spec.source, build.parents.get(f"{spec.source_path}.dataset"))
    rounds = Rounds(WorkCopy(build.store, spec.name, build.version, "rounds"))
    with ExitStack() as closing, progress(f"writing {spec.name}", _num_wanted(spec), "rows") as bar:
        rewards = closing.enter_context(
            opened_rewards(spec.rewards, "task.rewards", build.parents, build.job_directory)
        )
        task = opened(spec, prompts, files, build.parents, rewards)
        writers = _Writers(spec, build, rounds, closing)
        tally = Tally(spec)
        for number in itertools.count():
            steps = task.round(number)
            if steps is None or tally.has_stopped:
                tally.check(is_whole=steps is None)
                break
            found = rounds.finished(number)
            if found is not None:
                task.restore(found)
                bar.continue_from(bar.done + len(found.rows))
            else:
                journal = rounds.journal(number)
                found = driven(steps, lambda asks, journal=journal: journal.answered(asks, writers.write))  # type: ignore[misc]
                rounds.finish(number, found)
                bar.advance(len(found.rows), tally.shown())
            tally.add(found)
    return _outcome(spec, build, rounds, tally, task, prompts)


def _num_wanted(spec: GenerateSpec) -> int | None:
    return spec.task.num_rows if isinstance(spec.task, SelfInstructTask) else spec.task.data.limit_rows


class Tally:
    """What was kept and dropped so far, and whether going on makes sense."""

    def __init__(self, spec: GenerateSpec) -> None:
        self._spec = spec
        self.num_rows, self.num_rounds = 0, 0
        self.reasons: Counter[str] = Counter()
        self._samples: dict[str, str] = {}
        self._latest: deque[tuple[int, int]] = deque()
        """Candidates and kept rows of the last rounds, as many as patience looks at."""
        self._labels: Counter[str] = Counter()

    def add(self, found: Found) -> None:
        """Counts a round. Raises QualityError if nearly all texts got the same label."""
        self.num_rows += len(found.rows)
        self.num_rounds += 1
        for one in found.dropped:
            self.reasons[one["reason"]] += 1
            if len(self._samples) < NUM_SAMPLES:
                self._samples.setdefault(one["reason"], one["text"])
        self._latest.append((len(found.rows) + len(found.dropped), len(found.rows)))
        patience = self._spec.patience.num_candidates
        while sum(candidates for candidates, _ in self._latest) - self._latest[0][0] >= patience:
            self._latest.popleft()
        if isinstance(self._spec.task, LabelsTask):
            self._labels.update(row["answer"] for row in found.rows)
            self._check_labels(self._spec.task)

    def _check_labels(self, task: LabelsTask) -> None:
        total = self._labels.total()
        if total < NUM_BEFORE_LABEL_SHARES:
            return
        ((label, count),) = self._labels.most_common(1)
        if count > task.max_label_share * total:
            what = f"{count:,} of {total:,} texts are labelled {label!r}, a larger part than task.max_label_share"
            fix = (
                "Ask by another task.question, by probabilities (`kind: predict` with a prompt), or a larger model; or "
                "raise it, if the texts are so."
            )
            raise QualityError(what, where=f"{task.max_label_share:g}", fix=fix)

    @property
    def has_stopped(self) -> bool:
        """Whether too few of the last candidates were kept."""
        candidates, kept = (sum(column) for column in zip(*self._latest, strict=True)) if self._latest else (0, 0)
        return (
            candidates >= self._spec.patience.num_candidates and kept < self._spec.patience.min_kept_share * candidates
        )

    def shown(self) -> str:
        return ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.most_common(3))

    def check(self, is_whole: bool) -> None:
        """Raises QualityError if too few rows were kept, or the job stopped before its end and nobody allows that."""
        wanted = self._spec.min_rows
        if wanted is None:
            wanted = self._spec.task.num_rows if isinstance(self._spec.task, SelfInstructTask) else 1
            is_enough = is_whole and self.num_rows >= wanted
        else:
            is_enough = self.num_rows >= wanted
        if is_enough:
            return
        dropped = ", ".join(f"{reason} {count:,}" for reason, count in self.reasons.most_common())
        samples = "; ".join(f"{reason}: {text[:200]!r}" for reason, text in self._samples.items())
        whole = "" if is_whole else ", and the job stopped before its end"
        what = f"{self.num_rows:,} rows were kept, at least {wanted:,} are wanted{whole}"
        why = f"; dropped: {dropped}. Samples: {samples}" if dropped else ": there is no row to write for"
        fix = "What was written is kept. Change the prompts, filters or model, or accept fewer (min_rows)."
        raise QualityError(what + why, where=self._spec.name, fix=fix)


class _Writers:
    """The engine and the judge, each started when something is asked of it."""

    def __init__(self, spec: GenerateSpec, build: Build, rounds: Rounds, closing: ExitStack) -> None:
        self._spec, self._build, self._rounds, self._closing = spec, build, rounds, closing
        self._open: dict[str, Writer] = {}

    def write(self, asks: Sequence[Ask]) -> Iterator[ModelAnswer]:
        for by_judge in (False, True):
            mine = [ask for ask in asks if ask.by_judge == by_judge]
            if mine:
                writer = self._of("judge" if by_judge and self._spec.judge is not None else "engine")
                yield from (replace(answer, by_judge=by_judge) for answer in writer.write(mine))

    def _of(self, role: str) -> Writer:
        if role not in self._open:
            self._open[role] = self._started(role)
            self._closing.callback(self._open[role].close)
        return self._open[role]

    def _started(self, role: str) -> Writer:
        engine = self._spec.judge if role == "judge" and self._spec.judge is not None else self._spec.engine
        is_both = self._spec.judge is None
        paid = (one for one in self._rounds.journals() if is_both or one.by_judge == (role == "judge"))
        asking = Asking(self._spec.name, self._spec.sampling, self._spec.system)
        return opened_writer(role, engine, asking, self._build, paid)


def opened_writer(role: str, engine: Engine, asking: Asking, build: Build, paid: Iterable[ModelAnswer]) -> Writer:
    """What writes for a job. `role`: the field that names it; `paid`: what earlier runs were given by it.

    Raises RayloomError if it is no model that writes text, or there is no key.
    """
    if isinstance(engine, EndpointEngine):
        spent = [(one.num_prompt_tokens, one.num_tokens) for one in paid]
        return EndpointWriter(engine, asking, (sum(one for one, _ in spent), sum(one for _, one in spent)))
    subject = writing_subject(role, build.parents[f"{role}.model"], build.store)
    return Actors(subject, engine, asking)


class Actors:
    """vLLM engines as actors on the cluster."""

    def __init__(self, subject: Subject, engine: ModelEngine, asking: Asking) -> None:
        connect()
        say(f"{asking.job}: {engine.num_workers} × vLLM with {subject.artifact_id}")
        cores = None if engine.gpus_per_worker else engine.cpus_per_worker
        self._where = subject.artifact_id
        actor = ray.remote(VllmWriter).options(
            num_cpus=engine.cpus_per_worker,
            num_gpus=engine.gpus_per_worker,
            runtime_env={"env_vars": vllm_environment(cores, in_one_process=cores is not None)},
        )
        self._actors = [actor.remote(subject, engine, asking) for _ in range(engine.num_workers)]

    def write(self, asks: Sequence[Ask]) -> Iterator[ModelAnswer]:
        shares = [asks[first :: len(self._actors)] for first in range(len(self._actors))]
        streams = [
            actor.write.options(num_returns="streaming").remote(share)
            for actor, share in zip(self._actors, shares, strict=True)
            if share
        ]
        try:
            while streams:
                (stream,), _ = ray.wait(streams, num_returns=1)
                try:
                    yield from ray.get(next(stream))
                except StopIteration:
                    streams.remove(stream)
        except ray.exceptions.RayActorError as error:
            fix = "What was answered is kept: run the same command again. vLLM's own messages are in Ray's logs."
            what = f"A vLLM engine of {self._where} did not start, or ended while it wrote"
            raise ResourceError(what, where=str(error).splitlines()[0], fix=fix) from error

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)


def _outcome(spec: GenerateSpec, build: Build, rounds: Rounds, tally: Tally, task: Task, prompts: Prompts) -> Outcome:
    most = _num_wanted(spec) if isinstance(spec.task, SelfInstructTask) else None
    texts: list[str] = []
    with (
        (build.directory / ROWS_FILE).open("w", encoding="utf-8") as rows,
        (build.directory / DROPPED_FILE).open("w", encoding="utf-8") as dropped,
    ):
        for number in range(tally.num_rounds):
            found = rounds.finished(number) or Found()
            for row in itertools.islice(found.rows, None if most is None else max(0, most - len(texts))):
                rows.write(json.dumps(row["row"], ensure_ascii=False) + "\n")
                texts.append(row["prompt"])
            for one in found.dropped:
                dropped.write(json.dumps(one, ensure_ascii=False) + "\n")
    prompts.save(task.prompt_names, build.directory / "prompts")
    models: Counter[str] = Counter()
    prompt_tokens = written_tokens = 0
    for answer in rounds.journals():
        models[answer.model] += answer.failed is None
        prompt_tokens += answer.num_prompt_tokens
        written_tokens += answer.num_tokens
    numbers: dict[str, Any] = {
        "num_rows": len(texts),
        "num_dropped": sum(tally.reasons.values()),
        "dropped": dict(tally.reasons.most_common()),
        "num_answers": models.total(),
        "prompt_tokens": prompt_tokens,
        "written_tokens": written_tokens,
        "models": dict(models),
        "verbs": verb_noun_counts(texts, NUM_VERBS),
        "clusters": cluster_shares(texts, spec.sampling.seed),
    }
    wrote = [engine for engine in (spec.engine, spec.judge) if isinstance(engine, EndpointEngine)]
    licences = {engine.licence for engine in wrote} | {spec.source.licence}
    kept = f"{len(texts):,} rows kept, {numbers['num_dropped']:,} dropped"
    return Outcome("dataset", numbers, tuple(sorted(filter(None, licences))), headline=kept)
