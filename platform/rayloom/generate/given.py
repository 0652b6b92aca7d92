"""The rows that a job is given, and the seeds of Self-Instruct, read from files of any supported form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayloom.errors import InputError
from rayloom.reading.files import RowFile, text_or_table_rows
from rayloom.reading.records import BadRow
from rayloom.score.rouge_index import RougeIndex
from rayloom.specs.generation.tasks import GivenRows, SelfInstructTask
from rayloom.text.conversations.formats import conversation
from rayloom.text.conversations.messages import ConversationError

MOST_ALIKE = 0.7
"""Seeds of a larger ROUGE-L count as one."""
NUM_NAMED = 5


@dataclass(frozen=True)
class Given:
    """A row: its text and the columns to keep, or why it has none."""

    origin: str
    text: str = ""
    kept: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    """All columns."""
    problem: str | None = None


def given_rows(source: GivenRows, files: Sequence[RowFile]) -> Iterator[Given]:
    """The rows in order, at most `limit_rows` of them, spread evenly over all."""
    # Of a file that is no table, each line is a text.
    for origin, row in text_or_table_rows(files, source, source.limit_rows):
        yield _given(source, origin, row)


def _given(source: GivenRows, origin: str, row: Any) -> Given:
    if isinstance(row, BadRow):
        return Given(origin, problem=f"unreadable: {row}")
    values = row if isinstance(row, Mapping) else {}
    kept = {name: values.get(name) for name in source.keep}
    text = values.get(source.text, values.get("text") if set(values) == {"text"} else None)
    if text is None:
        try:
            text = _first_of(conversation(row, None, {}, origin).messages, "user")
        except ConversationError as error:
            columns = ", ".join(map(str, values))
            return Given(origin, kept=kept, problem=f"missing_column: no {source.text!r} ({columns}): {error}")
    if not isinstance(text, str) or not text.strip():
        return Given(origin, kept=kept, problem=f"no_text: {source.text!r} is {str(text)[:60]!r}")
    return Given(origin, whole_characters(text), kept, values)


def whole_characters(text: str) -> str:
    """The text without halves of characters, which JSON can hold and which no endpoint and no file takes."""
    return text.encode(errors="replace").decode()


def _first_of(messages: Sequence[Mapping[str, Any]], role: str) -> str | None:
    found = next((message["content"] for message in messages if message["role"] == role), None)
    return found if isinstance(found, str) else None


@dataclass(frozen=True)
class Seed:
    """A task that a person wrote."""

    origin: str
    instruction: str
    input: str
    output: str
    is_classification: bool = False

    @property
    def text(self) -> str:
        """All of it; the instruction is the first line."""
        return "\n".join((" ".join(self.instruction.split()), self.input, self.output))


def read_seeds(task: SelfInstructTask, files: Sequence[RowFile]) -> list[Seed]:
    """The seeds. Raises InputError naming those of a wrong shape, or if there are too few that differ."""
    seeds, problems = [], []
    for origin, row in text_or_table_rows(files, task.seeds):
        try:
            seeds.append(_seed(origin, row))
        except ConversationError as error:
            problems.append(f"{origin}: {error}")
    if problems:
        more = f", and {len(problems) - NUM_NAMED} more" if len(problems) > NUM_NAMED else ""
        fix = "A seed has instruction, input (may be empty) and output, or is a conversation; map others by `columns`."
        what = (
            f"{len(problems)} of {len(problems) + len(seeds)} seeds cannot be used: {'; '.join(problems[:NUM_NAMED])}"
        )
        raise InputError(f"{what}{more}", where="task.seeds", fix=fix)
    different = RougeIndex(MOST_ALIKE)
    for seed in seeds:
        if different.most_similar(seed.instruction) is None:
            different.add(seed.instruction)
    if len(different) < task.num_seed_examples:
        what = f"There are {len(seeds)} seeds, of which {len(different)} differ, but each prompt shows"
        fix = "Write more, and more different, seeds (175 in the paper), or lower task.num_seed_examples."
        raise InputError(f"{what} {task.num_seed_examples}", where="task.seeds", fix=fix)
    return seeds


def _seed(origin: str, row: Any) -> Seed:
    values = row if isinstance(row, Mapping) else {}
    mark = values.get("is_classification")
    is_classification = str(mark).casefold() in ("true", "1", "yes")
    if isinstance(values.get("instruction"), str) and isinstance(values.get("output"), str):
        texts = (values["instruction"], values.get("input") or "", values["output"])
        if not all(isinstance(text, str) for text in texts):
            raise ConversationError("not_text", "its input is not text")
    else:
        messages = conversation(row, None, {}, origin).messages
        texts = (_first_of(messages, "user") or "", "", _first_of(messages, "assistant") or "")
    if not texts[0].strip() or not texts[2].strip():
        raise ConversationError("empty_question", "its instruction or output is empty")
    instruction, given, output = (text.strip() for text in texts)
    return Seed(origin, instruction, given, output, is_classification)
