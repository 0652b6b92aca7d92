"""Documents of token shards, decoded: any of them by its number, with the tokens that are trained marked."""

from __future__ import annotations

import bisect
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from rayloom.text.packed.shards import INDEX_NAME
from rayloom.ui.rows.row_page import BrowsedRow, Deadline, RowFilter, RowPage

MOST_TOKENS = 2_000
"""Of a longer document, its beginning is shown."""


class BrowsedDocuments:
    """The shards in one folder. Raises InputError through the page if the tokenizer is not there."""

    def __init__(self, folder: Path, tokenizer: Path) -> None:
        self._folder = folder
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        shards = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))["shards"]
        self._starts = [0, *itertools.accumulate(int(shard["num_documents"]) for shard in shards)]

    @property
    def num_rows(self) -> int:
        return self._starts[-1]

    def page(self, start: int, count: int) -> RowPage:
        numbers = range(start, min(start + count, self.num_rows))
        rows = [BrowsedRow(number, self._document(number)) for number in numbers]
        return RowPage(rows, self.num_rows, start + count if start + count < self.num_rows else None)

    def search(self, wanted: RowFilter, start: int, count: int) -> RowPage:
        deadline, found, number = Deadline(), list[BrowsedRow](), start
        while number < self.num_rows and len(found) < count and not deadline.is_over():
            values = self._document(number)
            if wanted.fits({"text": values["text"]} if not wanted.field else values):
                found.append(BrowsedRow(number, values))
            number += 1
        return RowPage(found, self.num_rows, number if number < self.num_rows else None, searched=number - start)

    def _document(self, number: int) -> dict[str, Any]:
        shard = bisect.bisect_right(self._starts, number) - 1
        place, name = number - self._starts[shard], f"{shard:05d}"
        starts = np.load(self._folder / f"{name}.documents.npy", mmap_mode="r", allow_pickle=False)
        tokens = np.load(self._folder / f"{name}.tokens.npy", mmap_mode="r", allow_pickle=False)
        begin = int(starts[place])
        end = int(starts[place + 1]) if place + 1 < len(starts) else len(tokens)
        shown = tokens[begin : min(end, begin + MOST_TOKENS)].tolist()
        values: dict[str, Any] = {"tokens": end - begin}
        file = self._folder / f"{name}.trained.npy"
        if file.exists():
            trained = np.load(file, mmap_mode="r", allow_pickle=False)[begin : begin + len(shown)]
            values["pieces"] = self._pieces(shown, trained)
        values["text"] = self._tokenizer.decode(shown, skip_special_tokens=False)
        if end - begin > len(shown):
            values["left_out"] = f"{end - begin - len(shown):,} tokens more"
        return values

    def _pieces(self, tokens: list[int], trained: Any) -> list[tuple[bool, str]]:
        """Runs of tokens that are trained or not, decoded together, as a character may be made of several."""
        borders = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(tokens)]
        return [
            (bool(trained[begin]), self._tokenizer.decode(tokens[begin:end], skip_special_tokens=False))
            for begin, end in itertools.pairwise(borders)
            if end > begin
        ]
