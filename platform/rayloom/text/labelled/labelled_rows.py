"""Files of labelled data read as examples, in each of the forms that `specs.labelled_data` names."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rayloom.reading.named_rows import NamedRow, named_rows, table_rows
from rayloom.reading.records import BadRow, ReadOptions
from rayloom.specs.row_files import RowFiles
from rayloom.specs.training.labelled_data import (
    ConllRows,
    DocumentRows,
    LineRows,
    PairRows,
    QuestionRows,
    Reading,
    RelationRows,
    SpanRows,
    TableRows,
    TaggedWords,
)
from rayloom.text.conversations.formats import check_characters
from rayloom.text.conversations.messages import ConversationError
from rayloom.text.labelled.examples import Example, ExampleError, Span
from rayloom.text.labelled.tags import spans_of_words

Read = Iterator[tuple[str, Example | ExampleError | None]]
"""Origin, and the example, what is wrong with the row, or None where the reading passes over it."""


def labelled_rows(files: Sequence[Path], reading: Reading, how: RowFiles | None = None) -> Read:
    """Every row of the files. Raises InputError where a file cannot be read at all."""
    made, rows_of = _READERS[type(reading)]
    for file in files:
        for origin, values in rows_of(file, how or RowFiles()):
            try:
                if isinstance(values, BadRow):
                    raise ExampleError("unreadable", str(values))
                example = made(values, reading)
            except ExampleError as error:
                yield origin, error
            else:
                yield origin, None if example is None else replace(example, origin=origin)


def _table(file: Path, how: RowFiles) -> Iterator[NamedRow]:
    return table_rows([file], how)


def _lines(file: Path, how: RowFiles) -> Iterator[NamedRow]:
    return named_rows(file, how, ReadOptions("text"))


def _sentences(file: Path, how: RowFiles) -> Iterator[NamedRow]:
    return named_rows(file, how, ReadOptions("conll"))


def _whole(file: Path, how: RowFiles) -> Iterator[NamedRow]:
    """The file's text; one that is empty has none."""
    values = next((values for _, values in named_rows(file, how, ReadOptions("text", unit="file"))), {"text": ""})
    yield file.name, values


# -- texts with labels -------------------------------------------------------------------------------------------------


def _labelled(row: Any, reading: TableRows) -> Example | None:
    columns = [reading.text, reading.label, *([reading.pair] if reading.pair else []), *reading.only]
    _need(row, *columns)
    if any(str(row[column]) != value for column, value in reading.only.items()):
        return None
    values = row[reading.label] if isinstance(row[reading.label], list) else [row[reading.label]]
    labels = tuple(reading.names.get(str(value), str(value)) for value in values)
    return Example(
        _text(row, reading.text), _text(row, reading.pair) if reading.pair else None, tuple(dict.fromkeys(labels))
    )


def _one_text(row: Any, reading: LineRows | DocumentRows) -> Example:
    text = row["text"].strip()
    if not text:
        raise ExampleError("empty_text", "holds no text")
    return Example(text, labels=(reading.label,))


# -- entities ----------------------------------------------------------------------------------------------------------


def _bio(row: Any, reading: ConllRows) -> Example:
    words, tags = row["words"], row["tags"]
    return Example(" ".join(words), spans=spans_of_words(words, tags, " ", reading.names))


def _tagged_words(row: Any, reading: TaggedWords) -> Example:
    return _tagged(row["text"].split(), reading.entities)


def _tagged(words: list[str], entities: Mapping[str, str]) -> Example:
    texts, tags, before = [], [], None
    for word in words:
        text, slash, tag = word.rpartition("/")
        if not slash:
            raise ExampleError("bad_tag", f"{word!r} has no tag")
        entity = entities.get(tag)
        texts.append(text)
        tags.append("O" if entity is None else f"{'I' if entity == before else 'B'}-{entity}")
        before = entity
    return Example("".join(texts), spans=spans_of_words(texts, tags, "", {}))


def _spans(row: Any, reading: SpanRows) -> Example:
    _need(row, reading.text, reading.entities)
    text = _text(row, reading.text)
    spans = sorted(_checked_span(item, text) for item in _objects(row, reading.entities))
    for (_, end, label), (start, _, following) in itertools.pairwise(spans):
        if start < end:
            raise ExampleError("overlapping_spans", f"{following} at {start} begins inside {label}")
    return Example(text, spans=tuple(Span(*span) for span in spans))


# -- relations and questions -------------------------------------------------------------------------------------------


def _relations(row: Any, reading: RelationRows) -> Example:
    _need(row, reading.text, reading.head, reading.tail, reading.label)
    text = _text(row, reading.text)
    spans = []
    for name in (reading.head, reading.tail):
        start, end, _ = _checked_span(row[name], text, "entity")
        spans.append(Span(start, end, "head" if name == reading.head else "tail"))
    if max(spans[0].start, spans[1].start) < min(spans[0].end, spans[1].end):
        raise ExampleError("overlapping_spans", "head and tail overlap")
    return Example(text, labels=(str(row[reading.label]),), spans=tuple(spans))


def _questions(row: Any, reading: QuestionRows) -> Example:
    _need(row, reading.context, reading.question, reading.answers)
    context, question = _text(row, reading.context), _text(row, reading.question)
    spans = [_answer(item, context) for item in _objects(row, reading.answers)]
    return Example(context, question, spans=tuple(spans))


def _pairs(row: Any, reading: PairRows) -> Example:
    _need(row, reading.source, reading.target)
    return Example(_text(row, reading.source), labels=(_text(row, reading.target),))


def _answer(item: Mapping[str, Any], context: str) -> Span:
    answer, start = item.get("text"), item.get("start")
    if not isinstance(answer, str) or not answer:
        raise ExampleError("missing_column", "an answer has no `text`")
    if start is None:
        start = context.find(answer)
    if not isinstance(start, int) or start < 0 or context[start : start + len(answer)] != answer:
        raise ExampleError("answer_not_in_context", f"the answer {answer[:60]!r} does not stand at {start}")
    return Span(start, start + len(answer), "answer")


# -- parts of rows -----------------------------------------------------------------------------------------------------


def _need(row: Any, *columns: str) -> None:
    if not isinstance(row, Mapping):
        raise ExampleError("missing_column", f"is not an object with columns but {type(row).__name__}")
    missing = [column for column in columns if row.get(column) is None]
    if missing:
        known = ", ".join(str(name) for name in row)
        raise ExampleError("missing_column", f"has no column {' and '.join(missing)}; its columns are {known}")


def _text(row: Mapping[str, Any], column: str) -> str:
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


def _objects(row: Mapping[str, Any], column: str) -> list[Mapping[str, Any]]:
    value = row[column]
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise ExampleError("missing_column", f"`{column}` is not a list of objects: {json.dumps(value)[:60]}")
    return value


def _checked_span(item: Any, text: str, label: str | None = None) -> tuple[int, int, str]:
    facts = item if isinstance(item, Mapping) else {}
    start, end, said = facts.get("start"), facts.get("end"), label or facts.get("label")
    if not isinstance(start, int) or not isinstance(end, int) or not isinstance(said, str):
        raise ExampleError("bad_span", f"{json.dumps(item)[:80]} is no span: give start, end and label")
    if not 0 <= start < end <= len(text):
        raise ExampleError("bad_span", f"{start} to {end} is not inside the text of {len(text)} characters")
    return start, end, said


_READERS: dict[type, tuple[Callable[[Any, Any], Example | None], Callable[[Path, RowFiles], Iterator[NamedRow]]]] = {
    TableRows: (_labelled, _table),
    LineRows: (_one_text, _lines),
    DocumentRows: (_one_text, _whole),
    ConllRows: (_bio, _sentences),
    TaggedWords: (_tagged_words, _lines),
    SpanRows: (_spans, _table),
    RelationRows: (_relations, _table),
    QuestionRows: (_questions, _table),
    PairRows: (_pairs, _table),
}
"""From one row to its example, and the rows of a file, for each form."""
