"""The held-out rows on which quality is measured: those that a training job set aside and never trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rayloom.artifacts.store import Artifact
from rayloom.artifacts.training import training_of
from rayloom.errors import InputError
from rayloom.text.shards import Row, TokenShards


class SomeRows:
    """At least one and otherwise at most `max_tokens` tokens' worth of rows, spread evenly over all of them."""

    def __init__(self, rows: TokenShards, max_tokens: int) -> None:
        self.rows = rows
        shares = max(1, min(len(rows), max_tokens * len(rows) // max(1, rows.num_tokens)))
        self.numbers = np.linspace(0, len(rows) - 1, shares).round().astype(int).tolist()

    def __len__(self) -> int:
        return len(self.numbers)

    def row(self, index: int) -> Row:
        return self.rows.row(self.numbers[index])

    @property
    def num_tokens(self) -> int:
        return sum(len(self.row(index).tokens) for index in range(len(self)))


def heldout_rows(trained: Artifact, max_tokens: int) -> SomeRows:
    """Raises InputError where the artifact is not that of a training job that set rows aside."""
    length = training_of(trained.manifest).get("sequence_length_tokens")
    if not isinstance(length, int) or not (trained.path / "heldout").is_dir():
        what = f"{trained.id} has no held-out rows to measure on"
        raise InputError(what, where="rows_of", fix="Name the artifact of a `train` job.")
    rows = TokenShards(trained.path / "heldout", length)
    if not len(rows):
        what = f"The held-out rows of {trained.id} are empty"
        raise InputError(what, where=str(rows.directory), fix="Raise data.heldout_rows and train again.")
    return SomeRows(rows, max_tokens)


def check_tokenizer(rows: SomeRows, trained: Artifact, model: Path) -> None:
    """Raises InputError where the rows' ids are another tokenizer's than the model's."""
    from transformers import AutoTokenizer

    from rayloom.text.tokenizer_digest import tokenizer_digest

    if tokenizer_digest(AutoTokenizer.from_pretrained(model)) != rows.rows.tokenizer_digest:
        what = f"The held-out rows of {trained.id} were made with another tokenizer than this model's"
        raise InputError(what, where=str(model), fix="Name the training job of this model with `rows_of`.")
