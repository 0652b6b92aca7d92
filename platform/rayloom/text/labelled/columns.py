"""What the columns of a labelled row mean, and their values checked."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from rayloom.specs.training.labelled_data import (
    ChoiceRows,
    PairRows,
    QuestionRows,
    Reading,
    RelationRows,
    SpanRows,
    TableRows,
    WordRows,
)
from rayloom.text.conversations.messages import ConversationError
from rayloom.text.conversations.row_keys import (
    TRAIN_MARKS,
    check_characters,
    given,
    train_mark,
    unknown_keys,
    yes_or_no,
)
from rayloom.text.labelled.examples import ExampleError


def columns_of(reading: Reading) -> tuple[str, ...]:
    """The columns that the source names; none where rows have no columns."""
    if isinstance(reading, TableRows):
        return (reading.text, reading.label, *([reading.pair] if reading.pair else []), *reading.only)
    if isinstance(reading, QuestionRows):
        return (reading.context, reading.question, reading.answers, "is_impossible")
    if isinstance(reading, WordRows):
        return (reading.words, reading.tags)
    if isinstance(reading, SpanRows):
        return (reading.text, reading.entities)
    if isinstance(reading, RelationRows):
        return (reading.text, reading.head, reading.tail, reading.label)
    if isinstance(reading, ChoiceRows):
        return (reading.question, reading.choices, reading.answer)
    return (reading.source, reading.target) if isinstance(reading, PairRows) else ()


def checked_columns(
    row: Mapping[str, Any], known: Collection[str], ignored: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """The row without the ignored columns, and its columns that have no meaning.

    Raises ExampleError for a row that is marked as not to be trained, and for columns that look like meaning.
    """
    values = {key: value for key, value in row.items() if key not in ignored or key in known}
    try:
        unknown = list(unknown_keys(values, (*known, *TRAIN_MARKS), is_conversation=False))
        mark = train_mark(given(values, known), "the row")
    except ConversationError as error:
        raise ExampleError("bad_mark" if error.problem == "bad_mark" else "unsupported_key", str(error)) from None
    if mark is False:
        raise ExampleError("not_trained", "is marked as not to be trained (weight: 0, train: false)")
    return values, unknown


def need(row: Any, *columns: str) -> None:
    if not isinstance(row, Mapping):
        raise ExampleError("missing_column", f"is not an object with columns but {type(row).__name__}")
    missing = [column for column in columns if row.get(column) is None]
    if missing:
        known = ", ".join(str(name) for name in row)
        raise ExampleError("missing_column", f"has no column {' and '.join(missing)}; its columns are {known}")


def text_of(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if not isinstance(value, str):
        raise ExampleError("not_text", f"`{column}` is not text but {type(value).__name__}")
    if not value.strip():
        raise ExampleError("empty_text", f"`{column}` is empty")
    try:
        check_characters(value)
    except ConversationError as error:
        raise ExampleError("not_text", f"`{column}` {error}") from None
    return value


def objects(row: Mapping[str, Any], column: str) -> list[Mapping[str, Any]]:
    value = row[column]
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise ExampleError("missing_column", f"`{column}` is not a list of objects: {json.dumps(value)[:60]}")
    return value


def says_yes(row: Mapping[str, Any], column: str) -> bool:
    """Whether a column that may be missing says true or 1, also as text. Raises ExampleError if it says neither."""
    try:
        return row.get(column) is not None and yes_or_no(row[column], column)
    except ConversationError as error:
        raise ExampleError("bad_mark", str(error)) from None


def checked_span(item: Any, text: str, label: str | None = None) -> tuple[int, int, str]:
    facts = item if isinstance(item, Mapping) else {}
    start, end, said = facts.get("start"), facts.get("end"), label or facts.get("label")
    if type(start) is not int or type(end) is not int or not isinstance(said, str):
        raise ExampleError("bad_span", f"{json.dumps(item)[:80]} is no span: give start, end and label")
    if not 0 <= start < end <= len(text):
        raise ExampleError("bad_span", f"{start} to {end} is not inside the text of {len(text)} characters")
    for key in ("text", "word"):
        if isinstance(facts.get(key), str) and facts[key].strip() != text[start:end].strip():
            named = f"{facts[key][:60]!r}, and {start} to {end} is {text[start:end][:60]!r}"
            raise ExampleError("bad_span", f"a span has the {key} {named}: offsets are characters from 0, end excluded")
    return start, end, said


def listed(value: Any) -> list[Any]:
    """A list, also of one value or of none."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
