"""Files of labelled data read as examples, in each of the forms that `specs.labelled_data` names."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rayloom.errors import InputError
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
from rayloom.text.conversations.formats import check_characters, read_rows
from rayloom.text.conversations.messages import ConversationError
from rayloom.text.labelled.examples import Example, ExampleError, Span
from rayloom.text.labelled.tags import spans_of_words

csv.field_size_limit(10**9)

Read = Iterator[tuple[str, Example | ExampleError | None]]
"""Origin, and the example, what is wrong with the row, or None where the reading passes over it."""


def labelled_rows(files: Sequence[Path], reading: Reading) -> Read:
    """Every row of the files. Raises InputError where a file cannot be read at all."""
    for file in files:
        yield from _READERS[type(reading)](file, reading)


def raw_rows(files: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    """Rows to predict: of tables and JSON as they stand, of any other file each line that is not blank as `text`."""
    for file in files:
        if file.suffix in (".csv", ".tsv", ".json", ".jsonl"):
            yield from ((f"{file.name} row {number}", row) for number, row in enumerate(_table_rows(file), 1))
        else:
            for number, line in enumerate(_decoded(file).split("\n"), 1):
                if line.strip():
                    yield f"{file.name} line {number}", {"text": line.strip()}


def _each(file: Path, unit: str, rows: Iterator[Any], made: Callable[[Any], Example | None]) -> Read:
    for number, row in enumerate(rows, 1):
        origin = f"{file.name} {unit} {number}"
        try:
            example = made(row)
        except ExampleError as error:
            yield origin, error
            continue
        yield (
            origin,
            None if example is None else Example(example.text, example.pair, example.labels, example.spans, origin),
        )


# -- texts with labels -------------------------------------------------------------------------------------------------


def _table(file: Path, reading: TableRows) -> Read:
    return _each(file, "row", _table_rows(file), lambda row: _labelled(row, reading))


def _table_rows(file: Path) -> Iterator[Any]:
    if file.suffix not in (".csv", ".tsv"):
        yield from (row for _, row in read_rows([file]))
        return
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            yield from csv.DictReader(lines, delimiter="\t" if file.suffix == ".tsv" else ",")
    except (UnicodeDecodeError, csv.Error) as error:
        fix = "Name files that hold a table in UTF-8 with `files` of the source."
        raise InputError(f"This file cannot be read as a table: {error}", where=str(file), fix=fix) from None


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


def _lines(file: Path, reading: LineRows) -> Read:
    lines = (line.strip() for line in _decoded(file).split("\n"))
    return _each(file, "line", iter(lines), lambda line: Example(line, labels=(reading.label,)) if line else None)


def _documents(file: Path, reading: DocumentRows) -> Read:
    text = _decoded(file).strip()
    if text:
        yield file.name, Example(text, labels=(reading.label,), origin=file.name)
    else:
        yield file.name, ExampleError("empty_text", "holds no text")


def _decoded(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


# -- entities ----------------------------------------------------------------------------------------------------------


def _conll(file: Path, reading: ConllRows) -> Read:
    def sentences() -> Iterator[list[str]]:
        found: list[str] = []
        for line in [*io.StringIO(_decoded(file), newline=None), ""]:
            if line.strip():
                found.append(line)
            elif found:
                yield found
                found = []

    return _each(file, "sentence", sentences(), lambda lines: _bio(lines, reading.names))


def _bio(lines: list[str], names: Mapping[str, str]) -> Example:
    columns = [line.split("\t") if "\t" in line else line.split() for line in lines]
    short = [parts for parts in columns if len(parts) < 2]
    if short:
        raise ExampleError("missing_column", f"a line has no tag: {' '.join(short[0])!r}")
    words, tags = [parts[0] for parts in columns], [parts[-1].strip() for parts in columns]
    return Example(" ".join(words), spans=spans_of_words(words, tags, " ", names))


def _tagged_words(file: Path, reading: TaggedWords) -> Read:
    lines = (line.split() for line in _decoded(file).split("\n"))
    return _each(file, "line", iter(lines), lambda words: _tagged(words, reading.entities) if words else None)


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


def _spans(file: Path, reading: SpanRows) -> Read:
    def made(row: Any) -> Example:
        _need(row, reading.text, reading.entities)
        text = _text(row, reading.text)
        spans = sorted(_checked_span(item, text) for item in _objects(row, reading.entities))
        for (_, end, label), (start, _, following) in itertools.pairwise(spans):
            if start < end:
                raise ExampleError("overlapping_spans", f"{following} at {start} begins inside {label}")
        return Example(text, spans=tuple(Span(*span) for span in spans))

    return _each(file, "row", (row for _, row in read_rows([file])), made)


# -- relations and questions -------------------------------------------------------------------------------------------


def _relations(file: Path, reading: RelationRows) -> Read:
    def made(row: Any) -> Example:
        _need(row, reading.text, reading.head, reading.tail, reading.label)
        text = _text(row, reading.text)
        spans = []
        for name in (reading.head, reading.tail):
            start, end, _ = _checked_span(row[name], text, "entity")
            spans.append(Span(start, end, "head" if name == reading.head else "tail"))
        if max(spans[0].start, spans[1].start) < min(spans[0].end, spans[1].end):
            raise ExampleError("overlapping_spans", "head and tail overlap")
        return Example(text, labels=(str(row[reading.label]),), spans=tuple(spans))

    return _each(file, "row", (row for _, row in read_rows([file])), made)


def _questions(file: Path, reading: QuestionRows) -> Read:
    def made(row: Any) -> Example:
        _need(row, reading.context, reading.question, reading.answers)
        context, question = _text(row, reading.context), _text(row, reading.question)
        spans = [_answer(item, context) for item in _objects(row, reading.answers)]
        return Example(context, question, spans=tuple(spans))

    return _each(file, "row", (row for _, row in read_rows([file])), made)


def _pairs(file: Path, reading: PairRows) -> Read:
    def made(row: Any) -> Example:
        _need(row, reading.source, reading.target)
        return Example(_text(row, reading.source), labels=(_text(row, reading.target),))

    return _each(file, "row", _table_rows(file), made)


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


_READERS: dict[type, Callable[[Path, Any], Read]] = {
    TableRows: _table,
    LineRows: _lines,
    DocumentRows: _documents,
    ConllRows: _conll,
    TaggedWords: _tagged_words,
    SpanRows: _spans,
    RelationRows: _relations,
    QuestionRows: _questions,
    PairRows: _pairs,
}
