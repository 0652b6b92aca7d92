"""Texts and conversations of a data set as packed rows of a model's tokens, in memory, to measure and calibrate on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rayloom.errors import InputError
from rayloom.reading.files import RowFile, format_of, named_rows, table_rows
from rayloom.reading.records import TABLES, BadRow, ReadOptions
from rayloom.specs.row_files import RowFiles
from rayloom.text.conversations.formats import conversation
from rayloom.text.conversations.messages import ConversationError
from rayloom.text.conversations.render import Renderer
from rayloom.text.packed.shards import Row
from rayloom.text.tokenizer_files import tokenizer_digest

ROW_TOKENS = 512
Document = tuple[list[int], list[bool]]
"""Token ids, and which of them are labels."""


class TextRows:
    """Rows that were packed for one tokenizer; read like `TokenShards`."""

    def __init__(self, rows: Sequence[Row], tokenizer_digest: str, directory: Path) -> None:
        self._rows, self.tokenizer_digest, self.directory = rows, tokenizer_digest, directory
        self.num_tokens = sum(len(row.tokens) for row in rows)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> Row:
        return self._rows[index]


def text_rows(files: Sequence[RowFile], model: Path, max_tokens: int, where: Path) -> TextRows:
    """The first rows of the files, up to about so many tokens of the model in a folder.

    Of a text (`text`, or a paragraph of a text file) every token is a label; of a conversation, those of the answers.
    Raises InputError for a row that is neither, and if there is no row.
    """
    from rayloom.pretrained import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    packed: list[list[Document]] = [[]]
    total = room = 0
    for tokens, trained in _documents(files, tokenizer, functools.cache(lambda: Renderer.of_model(model))):
        for begin in range(0, len(tokens), ROW_TOKENS):
            part = tokens[begin : begin + ROW_TOKENS]
            if len(part) > room:
                packed.append([])
                room = ROW_TOKENS
            packed[-1].append((part, trained[begin : begin + ROW_TOKENS]))
            room -= len(part)
        total += len(tokens)
        if total >= max_tokens:
            break
    rows = [row for row in map(_row, filter(None, packed)) if row.trained.any()]
    if not rows:
        raise InputError("There is no text to measure", where=str(where), fix="Name a data set with texts or answers.")
    return TextRows(rows, tokenizer_digest(tokenizer), where)


def _row(documents: Sequence[Document]) -> Row:
    lengths = [len(tokens) for tokens, _ in documents]
    positions = np.concatenate([np.arange(length) for length in lengths])
    trained = np.concatenate([np.asarray(marks, np.bool_) for _, marks in documents])
    tokens = np.concatenate([np.asarray(tokens, np.int64) for tokens, _ in documents])
    return Row(tokens, trained & (positions > 0), positions)


def _documents(files: Sequence[RowFile], tokenizer: Any, renderer: Callable[[], Renderer]) -> Iterator[Document]:
    """`renderer`: asked for at the first conversation; texts need no chat template."""
    for origin, row in _rows(files):
        if isinstance(row, BadRow):
            raise InputError(f"A row cannot be read: {row}", where=origin, fix="Mend it, or name another data set.")
        if isinstance(row, Mapping) and isinstance(row.get("text"), str):
            tokens = list(tokenizer(row["text"])["input_ids"])
            yield tokens, [True] * len(tokens)
            continue
        try:
            samples = renderer().samples(conversation(row, None, {}, origin))
        except ConversationError as error:
            fix = "Name a data set with a column `text`, or with conversations."
            what = f"This row is neither a text nor a conversation: it {error}"
            raise InputError(what, where=origin, fix=fix) from None
        for sample in samples:
            yield list(sample.tokens), list(sample.trained)


def _rows(files: Sequence[RowFile]) -> Iterator[tuple[str, Any]]:
    how = RowFiles()
    for file in files:
        if format_of(file.name) in TABLES:
            yield from table_rows([file], how)
        else:
            yield from named_rows(file, how, ReadOptions("text", unit="paragraph"))
