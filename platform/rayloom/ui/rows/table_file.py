"""Parquet, read from any row: only the row groups that a page touches, and of these only up to its last row."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayloom.ui.rows.row_page import BrowsedRow, Deadline, RowFilter, RowPage

BATCH_ROWS = 4_096


class BrowsedTable:
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with pq.ParquetFile(path) as file:
            facts = file.metadata
            self.num_rows = int(facts.num_rows)
            groups = [facts.row_group(number).num_rows for number in range(facts.num_row_groups)]
        self._starts = [0, *itertools.accumulate(groups)]

    def page(self, start: int, count: int) -> RowPage:
        rows: list[BrowsedRow] = []
        for number, batch in self._batches(start):
            rows += _rows(number, batch.slice(0, count - len(rows)))
            if len(rows) >= count:
                break
        is_more = start + count < self.num_rows
        return RowPage(rows, self.num_rows, start + count if is_more else None)

    def search(self, wanted: RowFilter, start: int, count: int) -> RowPage:
        deadline, found, next_row = Deadline(), list[BrowsedRow](), start
        for number, batch in self._batches(start):
            for index in _candidates(batch, wanted):
                row = BrowsedRow(number + index, batch.slice(index, 1).to_pylist()[0])
                if wanted.fits(row.values):
                    found.append(row)
                if len(found) > count:
                    return RowPage(found[:count], self.num_rows, row.number, searched=row.number - start)
            next_row = number + batch.num_rows
            if deadline.is_over() and next_row < self.num_rows:
                return RowPage(found, self.num_rows, next_row, searched=next_row - start)
        return RowPage(found, self.num_rows, None, searched=next_row - start)

    def _batches(self, start: int) -> Iterator[tuple[int, Any]]:
        """Number of its first row, and a batch of rows, from row `start` on."""
        first = max(0, bisect.bisect_right(self._starts, start) - 1)
        with pq.ParquetFile(self._path) as file:
            groups = range(first, len(self._starts) - 1)
            number = self._starts[first]
            for batch in file.iter_batches(BATCH_ROWS, row_groups=list(groups), use_threads=False):
                skipped = max(0, start - number)
                if skipped < batch.num_rows:
                    yield number + skipped, batch.slice(skipped)
                number += batch.num_rows


def _rows(number: int, batch: Any) -> list[BrowsedRow]:
    return [BrowsedRow(number + index, values) for index, values in enumerate(batch.to_pylist())]


def _candidates(batch: Any, wanted: RowFilter) -> Iterator[int]:
    """Places of the rows that may fit: those with the text in a column; all, if some columns are no texts."""
    if not wanted.text:
        yield from range(batch.num_rows)
        return
    kinds = [column.type for column in batch.columns]
    if not all(pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in kinds):
        yield from range(batch.num_rows)
        return
    hits = [pc.fill_null(pc.match_substring(column, wanted.text, ignore_case=True), False) for column in batch.columns]
    mask = hits[0]
    for hit in hits[1:]:
        mask = pc.or_(mask, hit)
    yield from pc.indices_nonzero(mask).to_pylist()
