"""`kind: predict` on Ray Data: actors that hold the model answer part by part; a killed job goes on where it was."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.data

from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.errors import QualityError
from rayloom.evaluate.offline.engine import EngineUse, answered
from rayloom.evaluate.prediction.parts import FAILED_FILE, Parts, joined, read_part, write_answers, write_parts
from rayloom.models.responders.prompted import PromptedModel
from rayloom.models.responders.prompted_rows import PromptedResponder, rows_to_show
from rayloom.models.responders.responder import Responder, TextResponder, respond_to_each, responder_for
from rayloom.models.responders.subject import Subject
from rayloom.models.vllm_adapter import check_offline, goes_offline
from rayloom.observe.progress import progress, say
from rayloom.observe.ray_session import connect
from rayloom.reading.sources import row_files
from rayloom.specs.predict import PredictSpec
from rayloom.text.labelled.examples import ExampleError
from rayloom.text.prompts.demonstrations import Pool

ROWS_NAME = "rows.json"


def run(spec: PredictSpec, build: Build) -> Outcome:
    """Predictions of all rows that could be answered, and the reasons for those that could not."""
    parts = Parts(WorkCopy(build.store, spec.name, build.version))
    num_rows = _num_rows(spec, build, parts)
    num_parts = -(-num_rows // spec.rows_per_part)
    missing = parts.missing(num_parts)
    if len(missing) < num_parts:
        say(f"{spec.name}: {num_parts - len(missing)} of {num_parts} parts are done already")
    if missing:
        subject = Subject.of("model", build.parents["model"], build.store)
        shown = rows_to_show(spec.prompt, build.parents) if spec.prompt is not None else Pool()
        _check_can_answer(spec, subject, shown)
        _answer(spec, subject, shown, parts, missing, num_rows)
    total, failed = joined(parts, num_parts, build.directory)
    reasons = Counter(str(answer["failed"]).partition(":")[0] for answer in failed)
    _check(spec, total, failed, build)
    metrics = {"num_rows": total, "num_failed": len(failed), "failed": dict(reasons)}
    return Outcome("dataset", metrics, headline=f"{total - len(failed):,} of {total:,} rows answered")


def _check_can_answer(spec: PredictSpec, subject: Subject, shown: Pool) -> None:
    """Raises InputError for what would stop every worker."""
    if goes_offline(spec, subject):
        check_offline(subject)
        subject.renderer.with_kwargs(spec.generation.chat_template_kwargs)
        return
    _responder(spec, subject, shown)
    subject.release()


def _responder(spec: PredictSpec, subject: Subject, shown: Pool) -> Responder:
    if spec.prompt is None:
        return responder_for(subject, spec.generation)
    model = PromptedModel(subject, spec.prompt)
    model.check()
    return PromptedResponder(model, shown)


def _num_rows(spec: PredictSpec, build: Build, parts: Parts) -> int:
    """Cuts the rows into parts, unless an earlier run did."""
    file = build.work / ROWS_NAME
    parts.copy.fetch(ROWS_NAME)
    if file.exists():
        return int(json.loads(file.read_text())["num_rows"])
    num_rows = write_parts(spec, row_files(spec, build.parents.get("data")), parts)
    file.write_text(json.dumps({"num_rows": num_rows}))
    parts.copy.put(ROWS_NAME)
    return num_rows


def _answer(spec: PredictSpec, subject: Subject, shown: Pool, parts: Parts, missing: list[int], num_rows: int) -> None:
    connect()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    with progress(f"predicting {spec.name}", num_rows) as bar:
        bar.advance(num_rows - sum(len(read_part(parts.questions(number))) for number in missing))
        for num_answered in _answered(spec, subject, shown, parts, missing):
            bar.advance(num_answered)


def _answered(spec: PredictSpec, subject: Subject, shown: Pool, parts: Parts, missing: list[int]) -> Iterator[int]:
    """Rows of each part as it is written: by vLLM where there is text to write, else by actors of our own."""
    if goes_offline(spec, subject):
        yield from answered_parts(spec, subject, parts, missing)
        return
    numbers = ray.data.from_items([{"part": number} for number in missing], override_num_blocks=len(missing))
    answered = numbers.map_batches(
        _Worker,
        fn_constructor_args=(spec, subject, shown, parts),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(spec.num_workers, len(missing))),
        num_cpus=spec.cpus_per_worker,
        num_gpus=spec.gpus_per_worker,
    )
    for row in answered.iter_rows():
        yield int(row["num_rows"])


class _Worker:
    """An actor with the model in memory."""

    def __init__(self, spec: PredictSpec, subject: Subject, shown: Pool, parts: Parts) -> None:
        self._spec, self._parts = spec, parts
        self._responder = _responder(spec, subject, shown)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        counts = []
        for number in batch["part"]:
            rows = read_part(self._parts.questions(int(number)))
            found = respond_to_each(self._responder, rows, self._spec.micro_batch_sequences)
            write_answers(rows, found, self._parts, int(number))
            counts.append(len(rows))
        return {"num_rows": counts}


def _check(spec: PredictSpec, total: int, failed: list[dict[str, Any]], build: Build) -> None:
    if len(failed) <= spec.max_failed_share * total:
        return
    first = "; ".join(f"{answer['origin']}: {answer['failed']}" for answer in failed[:3])
    what = f"{len(failed)} of {total} rows failed, over max_failed_share ({spec.max_failed_share:g}): {first}"
    where: Path = build.directory / FAILED_FILE
    raise QualityError(what, where=str(where), fix="Correct the columns that the job names, or allow more failures.")


# A prediction's parts answered by vLLM's offline engine: answers come in no order, a part is written when whole.


def answered_parts(spec: PredictSpec, subject: Subject, parts: Parts, missing: Sequence[int]) -> Iterator[int]:
    """Answers the missing parts; gives the number of rows of each as it is whole and written."""
    use = EngineUse(
        subject,
        spec.generation,
        spec.micro_batch_sequences,
        spec.num_workers,
        spec.cpus_per_worker,
        spec.gpus_per_worker,
    )
    unfinished: dict[int, _Part] = {}
    for number in missing:
        part = _Part(number, parts, TextResponder(subject, spec.generation))
        if part.is_whole:
            yield part.write()
        else:
            unfinished[number] = part
    if not unfinished:
        return
    for row in answered(use, [{"part": number} for number in unfinished], _Questions(parts, use)):
        part = unfinished[row.pop("part")]
        part.answers[row.pop("row")] = row
        if part.is_whole:
            yield part.write()
            del unfinished[part.number]


@dataclass
class _Part:
    """What is known of a part by now. Its rows stay on disk."""

    number: int
    parts: Parts
    responder: TextResponder
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.answers |= {number: said for number, row in self._rows() if (said := refused(self.responder, row))}
        self._num_rows = len(self._rows())

    def _rows(self) -> list[tuple[int, dict[str, Any]]]:
        return list(enumerate(read_part(self.parts.questions(self.number))))

    @property
    def is_whole(self) -> bool:
        return len(self.answers) == self._num_rows

    def write(self) -> int:
        rows = [row for _, row in self._rows()]
        write_answers(rows, [self.answers[number] for number in range(len(rows))], self.parts, self.number)
        return len(rows)


def refused(responder: TextResponder, row: dict[str, Any]) -> dict[str, Any]:
    """Why a row cannot be asked; empty where it can."""
    try:
        responder.check(row)
    except ExampleError as error:
        return {"failed": f"{error.problem}: {error}"}
    return {}


@dataclass(frozen=True)
class _Questions:
    """A part's rows as what the engine is asked."""

    parts: Parts
    use: EngineUse

    def __call__(self, part: dict[str, Any]) -> list[dict[str, Any]]:
        responder = TextResponder(self.use.subject, self.use.generation)
        stop_tokens = sorted(self.use.subject.renderer.stop_tokens)
        number = int(part["part"])
        return [
            self.use.asked(responder.prompt(row), stop_tokens, part=number, row=place)
            for place, row in enumerate(read_part(self.parts.questions(number)))
            if not refused(responder, row)
        ]
