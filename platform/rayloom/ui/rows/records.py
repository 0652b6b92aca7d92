"""Files that can only be read from their beginning (CSV, JSON arrays, compressed ones): written once as JSON lines.

A small file at once, a larger one in a process of its own, whose rows can be read while it writes. The copies are this
machine's cache and are removed, oldest first, above `MOST_CACHE_BYTES`.

    python -m rayloom.ui.rows.records FILE COPY
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from rayloom.reading.files import format_of, read_file
from rayloom.reading.records import BadRow, ReadOptions
from rayloom.ui.rows.line_file import BrowsedLines
from rayloom.ui.rows.row_page import BrowsedRow, RowFilter, RowPage

SMALL_BYTES = 300_000
MOST_COPY_BYTES = 2_000_000_000
MOST_CACHE_BYTES = 8_000_000_000
MOST_DIRECT_ROWS = 500
"""A page up to here is read from the file itself while its copy is written."""
WRITING = "The file is being read; the rows behind these come as it goes on."

STOPPED = "Reading the file stopped before its end; these are the rows that were read."


class BrowsedRecords:
    """A file that any of Rayloom's readers opens."""

    def __init__(self, path: Path, folder: Path) -> None:
        facts = path.stat()
        key = hashlib.sha256(f"{path} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:24]
        self._path, self._copy = path, folder / f"{key}.jsonl"
        self._done = folder / f"{key}.done"
        self._process: subprocess.Popen[bytes] | None = None
        self._lines = BrowsedLines(self._copy)
        if not self._done.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _make_room(folder)
            self._copy.unlink(missing_ok=True)
            if facts.st_size <= SMALL_BYTES:
                write_copy(path, self._copy)
            else:
                command = [sys.executable, "-m", "rayloom.ui.rows.records", str(path), str(self._copy)]
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def page(self, start: int, count: int) -> RowPage:
        if not self._is_writing():
            page = self._lines.page(start, count)
            return replace(page, note=self._done.read_text() if self._done.exists() else STOPPED)
        if start + count <= MOST_DIRECT_ROWS:
            rows = [BrowsedRow(n, v) for n, v in enumerate(islice(_values(self._path), start + count + 1))][start:]
            return RowPage(rows[:count], None, start + count if len(rows) > count else None, WRITING)
        page = self._lines.page(start, count) if self._copy.exists() else RowPage([], None, None)
        return replace(page, num_rows=None, note=WRITING)

    def search(self, wanted: RowFilter, start: int, count: int) -> RowPage:
        if not self._copy.exists():
            return RowPage([], None, start, WRITING, searched=0)
        page = self._lines.search(wanted, start, count)
        if not self._is_writing():
            return page
        next_row = page.next_row if page.next_row is not None else start + (page.searched or 0)
        return replace(page, num_rows=None, next_row=next_row, note=WRITING)

    def _is_writing(self) -> bool:
        return self._process is not None and self._process.poll() is None


def write_copy(path: Path, copy: Path) -> None:
    """Writes the rows as JSON lines, and when all are there, or no more may be, `KEY.done` with a note about it."""
    note, num_bytes = "", 0
    with copy.open("w", encoding="utf-8") as file:
        try:
            for values in _values(path):
                num_bytes += file.write(json.dumps(values, ensure_ascii=False, default=str) + "\n")
                if num_bytes > MOST_COPY_BYTES:
                    note = "These are the first rows; the others are too many to be browsed."
                    break
        except Exception as error:  # noqa: BLE001 (a damaged file: what could be read is shown, and why no more)
            note = f"{error}"
    copy.with_suffix(".done").write_text(note, encoding="utf-8")


def _values(path: Path) -> Iterator[Any]:
    for record in read_file(path, ReadOptions(format_of(path.name) or "by_content", is_damage_allowed=True)):
        yield {"unreadable": str(record)} if isinstance(record, BadRow) else record.values


def _make_room(folder: Path) -> None:
    """Removes the oldest copies until the others have room."""
    copies = sorted(folder.glob("*.jsonl"), key=lambda copy: copy.stat().st_mtime)
    total = sum(copy.stat().st_size for copy in copies)
    for copy in copies:
        if total <= MOST_CACHE_BYTES:
            return
        total -= copy.stat().st_size
        copy.unlink(missing_ok=True)
        copy.with_suffix(".done").unlink(missing_ok=True)


if __name__ == "__main__":
    write_copy(Path(sys.argv[1]), Path(sys.argv[2]))
