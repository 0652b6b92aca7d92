"""JSON lines and text, read from any row: line feeds are counted once for each block of the file, not kept one by one.

A file of 1 GB has 4,000 counts; row N is found by them and by counting inside one block.
"""

from __future__ import annotations

import bisect
import json
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rayloom.ui.rows.row_page import BrowsedRow, Deadline, RowFilter, RowPage

BLOCK_BYTES = 256 << 10
SEARCHED_BYTES = 1 << 20
"""So much is searched between two looks at the clock."""
MOST_ROW_BYTES = 4 << 20
"""A longer line is shown cut off."""
COUNT_SECONDS = 10.0
AHEAD_SECONDS = 0.1
"""Each page counts so much further, so that the number of all rows is known after a few."""


class BrowsedLines:
    """A file of lines; it may grow."""

    def __init__(self, path: Path, is_json: bool = True) -> None:
        self._path, self._is_json = path, is_json
        self._before = array("q", [0])
        """Line feeds before each block whose beginning is known."""
        self._lock = threading.Lock()

    def page(self, start: int, count: int) -> RowPage:
        with self._path.open("rb") as file:
            self._count_to(file, start + count + 1, Deadline(COUNT_SECONDS))
            rows = list(self._rows(file, start, count + 1))
            self._count_to(file, 1 << 62, Deadline(AHEAD_SECONDS))
            total = self._num_rows(file)
        return RowPage(rows[:count], total, start + count if len(rows) > count else None)

    def search(self, wanted: RowFilter, start: int, count: int) -> RowPage:
        deadline, found, next_row = Deadline(), list[BrowsedRow](), start
        with self._path.open("rb") as file:
            self._count_to(file, start + 1, Deadline(COUNT_SECONDS))
            for first, lines in self._chunks(file, start):
                for number, line in _candidates(first, lines, wanted.needles()):
                    row = self._row(number, line)
                    if wanted.fits(row.values):
                        found.append(row)
                    if len(found) > count:
                        return RowPage(found[:count], None, number, searched=number - start)
                next_row = first + lines.count(b"\n")
                if deadline.is_over():
                    return RowPage(found, None, next_row, searched=next_row - start)
            total = self._num_rows(file)
        return RowPage(found, total, None, searched=(total or next_row) - start)

    def _count_to(self, file: BinaryIO, num_rows: int, deadline: Deadline) -> None:
        """Counts blocks until so many rows are known, or to the end of what is there."""
        with self._lock:
            file.seek((len(self._before) - 1) * BLOCK_BYTES)
            while self._before[-1] < num_rows and not deadline.is_over():
                block = file.read(BLOCK_BYTES)
                if len(block) < BLOCK_BYTES:
                    return
                self._before.append(self._before[-1] + block.count(b"\n"))

    def _num_rows(self, file: BinaryIO) -> int | None:
        """All rows, or None if not all whole blocks are counted. The last row need not end in a line feed."""
        size, counted = file.seek(0, 2), (len(self._before) - 1) * BLOCK_BYTES
        if size - counted >= BLOCK_BYTES:
            return None
        file.seek(max(0, counted - 1))
        rest = file.read()
        has_open_line = bool(rest) and not rest.endswith(b"\n")
        return self._before[-1] + rest[1 if counted else 0 :].count(b"\n") + has_open_line

    def _rows(self, file: BinaryIO, start: int, count: int) -> Iterator[BrowsedRow]:
        for number, line in enumerate(_pieces(file), self._seek(file, start)):
            if number >= start + count:
                return
            if number >= start:
                yield self._row(number, line)

    def _chunks(self, file: BinaryIO, start: int) -> Iterator[tuple[int, bytes]]:
        """Whole lines from row `start` on, and the number of the first."""
        number = self._seek(file, start)
        while number < start and file.readline():
            number += 1
        while lines := file.read(SEARCHED_BYTES):
            lines += file.readline() if not lines.endswith(b"\n") else b""
            yield number, lines
            number += lines.count(b"\n")

    def _seek(self, file: BinaryIO, start: int) -> int:
        """Goes to a block that begins before row `start`; the row in which it begins."""
        block = max(0, bisect.bisect_left(self._before, start) - 1)
        file.seek(block * BLOCK_BYTES)
        return self._before[block]

    def _row(self, number: int, line: bytes) -> BrowsedRow:
        text = line[:MOST_ROW_BYTES].rstrip(b"\r\n")
        if not self._is_json:
            return BrowsedRow(number, text.decode("utf-8", "replace"))
        try:
            values: Any = json.loads(text)
        except (ValueError, RecursionError):
            values = {"unreadable": text.decode("utf-8", "replace")}
        return BrowsedRow(number, values)


def _candidates(first: int, lines: bytes, needles: list[tuple[bytes, ...]]) -> Iterator[tuple[int, bytes]]:
    """The lines that have one spelling of each needle, with their numbers. Most texts are only looked through once."""
    low, begin, number, counted = lines.lower(), 0, first, 0
    while (place := min((p for p in (low.find(s, begin) for s in needles[0]) if p >= 0), default=-1)) >= 0:
        line_begin = low.rfind(b"\n", 0, place) + 1
        line_end = low.find(b"\n", place)
        begin = line_end + 1 if line_end >= 0 else len(low)
        number, counted = number + low.count(b"\n", counted, line_begin), line_begin
        if all(any(s in low[line_begin:begin] for s in spellings) for spellings in needles[1:]):
            yield number, lines[line_begin:begin]


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """The lines from here on; of a line that is too long, its beginning."""
    while line := file.readline(MOST_ROW_BYTES):
        yield line
        while not line.endswith(b"\n") and (line := file.readline(MOST_ROW_BYTES)):
            pass
