"""`kind: compare`: each model answers, then the judge judges; every answer is on disk before the next step needs it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.errors import QualityError
from rayloom.generate.asks import AnswerJournal, Ask, ModelAnswer
from rayloom.generate.comparing.judging import UNJUDGED, WayOfJudging, judge_of
from rayloom.generate.comparing.prompts import AnsweredPrompt, asked_rows, known_answers, rubric_of
from rayloom.generate.comparing.results import headline, of_answers, of_judgements, preferences
from rayloom.generate.given import Given
from rayloom.generate.run import opened_writer
from rayloom.generate.writers import Asking
from rayloom.observe.progress import progress
from rayloom.specs.compare import ComparedFile, CompareSpec
from rayloom.specs.generation.engines import EndpointEngine, Engine, ModelEngine

ANSWERS_FILE, JUDGEMENTS_FILE, WINS_FILE, PAIRS_FILE, RUBRIC_FILE = (
    "answers.jsonl", "judgements.jsonl", "wins.jsonl", "pairs.jsonl", "rubric.jinja",
)  # fmt: skip


def run(spec: CompareSpec, build: Build) -> Outcome:
    """All answers, all judgements, those that count as wins, pairs to train on, the rubric, and the numbers.

    Raises QualityError if the judge gave too few verdicts; what it said is kept.
    """
    judge = None if spec.judge is None else judge_of(spec, rubric_of(spec, build.job_directory))
    given, skipped = asked_rows(spec, build.parents)
    copy = WorkCopy(build.store, spec.name, build.version, "answers")
    copy.folder.mkdir(parents=True, exist_ok=True)
    copy.fetch("")
    known = [known_answers(spec, number, given, build.parents) for number in range(len(spec.models))]
    answers = {
        one.name: known[number] or _written(spec, number, given, build, copy) for number, one in enumerate(spec.models)
    }
    rows = [
        AnsweredPrompt(place, row, {name: one[place] for name, one in answers.items()})
        for place, row in enumerate(given)
    ]
    names = list(answers)
    numbers: dict[str, Any] = {
        "num_prompts": len(rows), "skipped": dict(skipped), "models": of_answers(names, rows),
    }  # fmt: skip
    if judge is not None:
        numbers |= _judged(spec, judge, rows, build, copy)
    _write(build, ANSWERS_FILE, map(_line, rows))
    said = headline(numbers) if judge is not None else f"{len(rows):,} prompts answered by {', '.join(names)}"
    return Outcome("dataset", numbers, _licences(spec), headline=said)


def _written(spec: CompareSpec, number: int, given: Sequence[Given], build: Build, copy: WorkCopy) -> list[ModelAnswer]:
    one = spec.models[number]
    assert isinstance(one, ModelEngine | EndpointEngine)
    asks = [Ask(str(place), row.text, "prompt") for place, row in enumerate(given)]
    asking = Asking(f"{spec.name}, {one.name}", spec.sampling, spec.system)
    return _asked(f"models.{number}", one, asking, asks, build, AnswerJournal(copy, f"answers-{one.name}.jsonl"))


def _judged(
    spec: CompareSpec, judge: WayOfJudging, rows: Sequence[AnsweredPrompt], build: Build, copy: WorkCopy
) -> dict[str, Any]:
    """Asks the judge, and writes what it said; returns the numbers."""
    assert spec.judge is not None
    asks = judge.asks(rows)
    asking = Asking(f"{spec.name}, the judge", spec.sampling)
    replies = _asked("judge", spec.judge, asking, asks, build, AnswerJournal(copy, "judge.jsonl"))
    judgements = list(judge.judgements(rows, {reply.key: reply for reply in replies}))
    duels = judge.duels(judgements)
    names = [one.name for one in spec.models]
    numbers = of_judgements(names, rows, judgements, duels) | {
        "judge": next((reply.model for reply in replies if reply.failed is None), ""),
        "judge_requests": len(replies),
        "judge_prompt_tokens": sum(reply.num_prompt_tokens for reply in replies),
        "judge_written_tokens": sum(reply.num_tokens for reply in replies),
    }
    _write(build, JUDGEMENTS_FILE, judgements)
    _check(spec, numbers, judgements)
    _write(build, WINS_FILE, (duel._asdict() for duel in duels))
    pairs = preferences(rows, duels)
    _write(build, PAIRS_FILE, pairs)
    (build.directory / RUBRIC_FILE).write_bytes(rubric_of(spec, build.job_directory).file.read_bytes())
    return numbers | {"num_pairs_to_train_on": len(pairs)}


def _asked(
    role: str, engine: Engine, asking: Asking, asks: Sequence[Ask], build: Build, journal: AnswerJournal
) -> list[ModelAnswer]:
    """The answer to each request; those of an earlier run are not asked for again, and nothing is started for none."""
    with progress(asking.job, len(asks), "answers") as bar:
        bar.continue_from(sum((ask.key, ask.digest) in journal.known for ask in asks))

        def write(missing: Sequence[Ask]) -> Iterator[ModelAnswer]:
            writer = opened_writer(role, engine, asking, build, journal.known.values())
            try:
                for answer in writer.write(missing):
                    bar.advance(1)
                    yield answer
            finally:
                writer.close()

        return journal.answered(asks, write)


def _check(spec: CompareSpec, numbers: dict[str, Any], judgements: Sequence[dict[str, Any]]) -> None:
    outcomes = ", ".join(f"{name} {count:,}" for name, count in numbers["outcomes"].items())
    if not numbers["pairs"]:
        fix = "Read judgements.jsonl there. What was answered is kept."
        raise QualityError(f"Nothing could be compared: {outcomes}", where=spec.name, fix=fix)
    if numbers["judge_requests"] and numbers["judged_share"] < spec.min_judged_share:
        said = next((one.get("said") for one in judgements if one["outcome"] in UNJUDGED), "")
        what = f"The judge gave a verdict on {numbers['judged_share']:.1%} of what it was asked, at least "
        what += f"{spec.min_judged_share:.1%} is wanted ({outcomes}). It said, for example: {str(said)[:300]!r}"
        fix = "Change the rubric or the judge, raise max_reply_tokens, or accept fewer (min_judged_share)."
        raise QualityError(what, where=spec.name, fix=f"{fix} What was answered is kept.")


def _line(row: AnsweredPrompt) -> dict[str, Any]:
    texts = {name: answer.text.strip() for name, answer in row.answers.items() if answer.failed is None}
    failed = {name: answer.failed for name, answer in row.answers.items() if answer.failed is not None}
    about = {"number": row.number, "origin": row.row.origin, "prompt": row.row.text, "answers": texts}
    return dict(row.row.kept) | about | ({"failed": failed} if failed else {})


def _write(build: Build, name: str, lines: Iterable[dict[str, Any]]) -> None:
    with (build.directory / name).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _licences(spec: CompareSpec) -> tuple[str, ...]:
    """Of what is no artifact; those of artifacts come from the parents' manifests."""
    named = [one.licence for one in (*spec.models, spec.judge) if isinstance(one, EndpointEngine | ComparedFile)]
    return tuple(sorted({licence for licence in (*named, spec.data.licence) if licence is not None}))
