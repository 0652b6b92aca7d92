"""Rows as a person reads them before anything is trained: the text, with what is trained in colour."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from rich.text import Text

from rayloom.text.packed.shards import Row, TokenShards

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRAINED = "bold green"
CONTEXT = "dim"
MAX_TOKENS = 400
"""Longer examples are cut for showing."""


def examples(shards: TokenShards, tokenizer: PreTrainedTokenizerBase, count: int) -> list[Text]:
    """The first documents of the shards: context dim, trained tokens bold and green."""
    shown: list[Text] = []
    for row in (shards.row(index) for index in range(len(shards))):
        for part in documents(row):
            if len(shown) == count:
                return shown
            shown.append(marked(row, part, tokenizer))
    return shown


def documents(row: Row) -> Iterator[slice]:
    """Where each document of a packed row lies."""
    starts = [int(place) for place in np.flatnonzero(row.positions == 0)]
    for start, end in zip(starts, [*starts[1:], len(row.tokens)], strict=True):
        yield slice(start, end)


def marked(row: Row, part: slice, tokenizer: PreTrainedTokenizerBase) -> Text:
    """One document. Runs of tokens are decoded together, as a character may be made of several."""
    shown = slice(part.start, min(part.stop, part.start + MAX_TOKENS))
    tokens, trained = row.tokens[shown], row.trained[shown]
    text = Text()
    borders = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(tokens)]
    for begin, end in itertools.pairwise(borders):
        run = str(tokenizer.decode(tokens[begin:end].tolist(), clean_up_tokenization_spaces=False))
        text.append(run, style=TRAINED if trained[begin] else CONTEXT)
    if shown.stop < part.stop:
        text.append(f" … and {part.stop - shown.stop} tokens more", style="italic")
    return text
