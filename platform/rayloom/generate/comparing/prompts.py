"""The prompts of a comparison, and the answers to them that are there before anything is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.generate.asks import ModelAnswer
from rayloom.generate.given import Given, given_rows, whole_characters
from rayloom.generate.prompts import Rubric
from rayloom.reading.files import text_or_table_rows
from rayloom.reading.records import BadRow
from rayloom.reading.sources import row_files
from rayloom.specs.compare import ComparedColumn, ComparedFile, CompareSpec, PairJudging
from rayloom.text.conversations.formats import conversation
from rayloom.text.conversations.messages import ConversationError


@dataclass(frozen=True)
class AnsweredPrompt:
    """A prompt, and what each model answered."""

    number: int
    row: Given
    answers: Mapping[str, ModelAnswer]
    """By name of the model."""


def asked_rows(spec: CompareSpec, parents: Mapping[str, Artifact]) -> tuple[list[Given], Counter[str]]:
    """The rows with a prompt, each prompt once; and how many others there are, by reason.

    Raises InputError if there is none.
    """
    rows: dict[str, Given] = {}
    skipped: Counter[str] = Counter()
    problem = "the files hold no row"
    for row in given_rows(spec.data, row_files(spec.data, parents.get("data.dataset"))):
        if row.problem is not None:
            skipped[row.problem.partition(":")[0]] += 1
            problem = f"{row.origin}: {row.problem}"
        elif rows.setdefault(row.text, row) is not row:
            skipped["same_prompt"] += 1
    if not rows:
        raise InputError(f"There is no prompt: {problem}", where="data", fix="Name its column with data.text.")
    return list(rows.values()), skipped


def known_answers(
    spec: CompareSpec, number: int, rows: Sequence[Given], parents: Mapping[str, Artifact]
) -> list[ModelAnswer] | None:
    """The answers of `models.NUMBER` that stand in files, one for each row; None if it is a model that is asked.

    Raises InputError if it has none to any of the prompts.
    """
    one = spec.models[number]
    if isinstance(one, ComparedFile):
        files = row_files(one, parents.get(f"models.{number}.dataset"))
        texts = _by_prompt(one, files)
        where, fix = f"models.{number}", "Name the columns with prompt and answer: both sides need the same prompts."
    elif isinstance(one, ComparedColumn):
        texts = {row.text: text for row in rows if (text := _own(one.column, row)) is not None}
        where, fix = f"models.{number}", "Name the column of the answer with column."
    else:
        return None
    known = [ModelAnswer(str(place), texts[row.text]) if row.text in texts else None for place, row in enumerate(rows)]
    if not any(known):
        raise InputError(f"{one.name} has no answer to any of the {len(rows):,} prompts", where=where, fix=fix)
    return [answer or ModelAnswer(str(place), failed="there is none") for place, answer in enumerate(known)]


def _by_prompt(one: ComparedFile, files: Sequence[object]) -> dict[str, str]:
    found: dict[str, str] = {}
    for _, values in text_or_table_rows(files, one):  # type: ignore[arg-type]
        if not isinstance(values, BadRow) and isinstance(values, Mapping):
            prompt, answer = values.get(one.prompt), values.get(one.answer)
            if isinstance(prompt, str) and isinstance(answer, str):
                found.setdefault(whole_characters(prompt), whole_characters(answer))
    return found


def _own(column: str | None, row: Given) -> str | None:
    if column is not None:
        text = row.values.get(column)
        return whole_characters(text) if isinstance(text, str) else None
    try:
        messages = conversation(dict(row.values), None, {}, row.origin).messages
    except ConversationError:
        return None
    found = next((message["content"] for message in messages if message["role"] == "assistant"), None)
    return whole_characters(found) if isinstance(found, str) else None


def rubric_of(spec: CompareSpec, job_directory: Path) -> Rubric:
    """What the judge is asked. Raises InputError if it is not there, or does not show the answers."""
    own = None if spec.rubric is None else job_directory / Path(spec.rubric).expanduser()
    if isinstance(spec.judging, PairJudging):
        return Rubric(own, "compare", ("first", "second"))
    return Rubric(own, "criterion", ("answer", "description"))
