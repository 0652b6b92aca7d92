"""Files of labelled data read as examples, in each of the forms that `specs.labelled_data` names."""

from __future__ import annotations

import itertools
import string
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rayloom.reading.files import NamedRow, RowFile, named_rows, table_rows
from rayloom.reading.records import BadRow, ReadOptions
from rayloom.specs.row_files import RowFiles
from rayloom.specs.training.labelled_data import (
    ChoiceRows,
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
    WordRows,
)
from rayloom.text.labelled.columns import (
    checked_columns,
    checked_span,
    columns_of,
    listed,
    need,
    objects,
    says_yes,
    text_of,
)
from rayloom.text.labelled.examples import Example, ExampleError, Span, spans_of_words

Read = Iterator[tuple[str, Example | ExampleError | None]]
"""Origin, and the example, what is wrong with the row, or None where the reading passes over it."""


def labelled_rows(
    files: Sequence[RowFile],
    reading: Reading,
    how: RowFiles | None = None,
    ignored: Collection[str] = (),
    unknown: Counter[str] | None = None,
) -> Read:
    """Every row of the files. Raises InputError where a file cannot be read at all.

    `ignored`: columns that are read as if they were not there. `unknown` counts the columns that have no meaning.
    """
    made, rows_of = _READERS[type(reading)]
    known = columns_of(reading)
    for file in files:
        for origin, values in rows_of(file, how or RowFiles()):
            try:
                if isinstance(values, BadRow):
                    raise ExampleError("unreadable", str(values))
                if known and isinstance(values, Mapping):
                    values, strange = checked_columns(values, known, ignored)
                    if unknown is not None:
                        unknown.update(strange)
                example = made(values, reading)
            except ExampleError as error:
                yield origin, error
            else:
                yield origin, None if example is None else replace(example, origin=origin)


def _table(file: RowFile, how: RowFiles) -> Iterator[NamedRow]:
    return table_rows([file], how)


def _lines(file: RowFile, how: RowFiles) -> Iterator[NamedRow]:
    return named_rows(file, how, ReadOptions("text"))


def _sentences(file: RowFile, how: RowFiles) -> Iterator[NamedRow]:
    return named_rows(file, how, ReadOptions("conll"))


def _whole(file: RowFile, how: RowFiles) -> Iterator[NamedRow]:
    """The file's text; one that is empty has none."""
    values = next((values for _, values in named_rows(file, how, ReadOptions("text", unit="file"))), {"text": ""})
    yield file.name, values


# -- texts with labels -------------------------------------------------------------------------------------------------


def _labelled(row: Any, reading: TableRows) -> Example | None:
    columns = [reading.text, reading.label, *([reading.pair] if reading.pair else []), *reading.only]
    need(row, *columns)
    if any(str(row[column]) != value for column, value in reading.only.items()):
        return None
    values = row[reading.label] if isinstance(row[reading.label], list) else [row[reading.label]]
    labels = tuple(reading.names.get(str(value), str(value)) for value in values)
    return Example(
        text_of(row, reading.text), text_of(row, reading.pair) if reading.pair else None, tuple(dict.fromkeys(labels))
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


def _tokens(row: Any, reading: WordRows) -> Example:
    need(row, reading.words, reading.tags)
    for column in (reading.words, reading.tags):
        if not isinstance(row[column], list) or not all(isinstance(value, str) for value in row[column]):
            said = f"`{column}` is no list of texts (numbers of tags are named by a data set of the hub only)"
            raise ExampleError("bad_tag", said)
    words, tags = row[reading.words], row[reading.tags]
    if len(words) != len(tags):
        raise ExampleError("bad_tag", f"has {len(words)} words and {len(tags)} tags")
    if not any(word.strip() for word in words):
        raise ExampleError("empty_text", f"`{reading.words}` holds no word")
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
    need(row, reading.text, reading.entities)
    text = text_of(row, reading.text)
    spans = sorted(checked_span(item, text) for item in objects(row, reading.entities))
    for (_, end, label), (start, _, following) in itertools.pairwise(spans):
        if start < end:
            raise ExampleError("overlapping_spans", f"{following} at {start} begins inside {label}")
    return Example(text, spans=tuple(Span(*span) for span in spans))


# -- relations and questions -------------------------------------------------------------------------------------------


def _relations(row: Any, reading: RelationRows) -> Example:
    need(row, reading.text, reading.head, reading.tail, reading.label)
    text = text_of(row, reading.text)
    spans = []
    for name in (reading.head, reading.tail):
        start, end, _ = checked_span(row[name], text, "entity")
        spans.append(Span(start, end, "head" if name == reading.head else "tail"))
    if max(spans[0].start, spans[1].start) < min(spans[0].end, spans[1].end):
        raise ExampleError("overlapping_spans", "head and tail overlap")
    return Example(text, labels=(str(row[reading.label]),), spans=tuple(spans))


def _questions(row: Any, reading: QuestionRows) -> Example:
    need(row, reading.context, reading.question, reading.answers)
    context, question = text_of(row, reading.context), text_of(row, reading.question)
    spans = [_answer(*answer, context) for answer in _texts_and_starts(row[reading.answers], reading.answers)]
    if spans and says_yes(row, "is_impossible"):
        raise ExampleError("bad_span", "has answers, and `is_impossible: true`; those are `plausible_answers`")
    return Example(context, question, spans=tuple(spans))


def _pairs(row: Any, reading: PairRows) -> Example:
    need(row, reading.source, reading.target)
    return Example(text_of(row, reading.source), labels=(text_of(row, reading.target),))


def _choices(row: Any, reading: ChoiceRows) -> Example:
    need(row, reading.question, reading.choices, reading.answer)
    found, names = row[reading.choices], list(string.ascii_uppercase)
    if isinstance(found, Mapping):
        names = [str(name) for name in listed(found.get("label"))]
        found = found.get("text")
    if not isinstance(found, list) or not all(isinstance(choice, str) and choice.strip() for choice in found):
        raise ExampleError("missing_column", f"`{reading.choices}` is no list of texts")
    if len(found) < 2 or len(set(found)) < len(found):
        raise ExampleError("several_labels", f"`{reading.choices}` needs two choices or more, each another one")
    said = row[reading.answer]
    number = found.index(said) if said in found else None
    if number is None and str(said) in names:
        number = names.index(str(said))
    if number is None and str(said).isdecimal():
        number = int(str(said))
    if number is None or number >= len(found):
        raise ExampleError("unknown_label", f"the answer {said!r:.60} is neither index, letter nor text of a choice")
    return Example(text_of(row, reading.question), labels=(found[number],), choices=tuple(found))


def _answer(text: Any, start: Any, context: str) -> Span:
    if not isinstance(text, str) or not text:
        raise ExampleError("missing_column", "an answer has no `text`")
    if start is None:
        start = context.find(text)
        if context.find(text, start + 1) > 0:
            said = f"the answer {text[:60]!r} stands in the text more than once, and has no `answer_start`"
            raise ExampleError("ambiguous_answer", said)
    if type(start) is not int or start < 0 or context[start : start + len(text)] != text:
        raise ExampleError("answer_not_in_context", f"the answer {text[:60]!r} does not stand at {start}")
    return Span(start, start + len(text), "answer")


def _texts_and_starts(answers: Any, column: str) -> list[tuple[Any, Any]]:
    """Of a list of `{text, answer_start}` (or `start`), or of one mapping with a list under each of these names."""
    if not isinstance(answers, Mapping):
        return [(answer.get("text"), _start_of(answer)) for answer in objects({column: answers}, column)]
    texts, starts = (listed(value) for value in (answers.get("text"), _start_of(answers)))
    if starts and len(starts) != len(texts):
        raise ExampleError("missing_column", f"`{column}` has {len(texts)} texts and {len(starts)} starts")
    return list(zip(texts, starts or [None] * len(texts), strict=True))


def _start_of(answer: Mapping[str, Any]) -> Any:
    starts = [answer[key] for key in ("start", "answer_start") if answer.get(key) is not None]
    if len(starts) == 2 and starts[0] != starts[1]:
        raise ExampleError("bad_span", f"an answer has start {starts[0]} and answer_start {starts[1]}")
    return starts[0] if starts else None


_READERS: dict[type, tuple[Callable[[Any, Any], Example | None], Callable[[RowFile, RowFiles], Iterator[NamedRow]]]] = {
    TableRows: (_labelled, _table),
    LineRows: (_one_text, _lines),
    DocumentRows: (_one_text, _whole),
    ConllRows: (_bio, _sentences),
    WordRows: (_tokens, _table),
    TaggedWords: (_tagged_words, _lines),
    SpanRows: (_spans, _table),
    RelationRows: (_relations, _table),
    QuestionRows: (_questions, _table),
    PairRows: (_pairs, _table),
    ChoiceRows: (_choices, _table),
}
"""From one row to its example, and the rows of a file, for each form."""
