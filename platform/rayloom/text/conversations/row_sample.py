"""A sample of a data set's rows, the same share of every source, for a plan that must not take long.

Of each source some files are looked at, evenly spaced, and of each of these the first rows. What is counted in the
sample is then scaled to the whole.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rayloom.reading.files import RowBlock, RowFile, format_of
from rayloom.reading.source_stream import SourceStream
from rayloom.specs.training.training_data import ConversationData

SAMPLE_BYTES = 4 << 20
"""Data sets of up to twice as much are looked at as a whole."""
MAX_FILES = 16
"""Of each source."""
FEWEST_ROWS = 4
"""Of each file, so that one can be held out of a small source, too."""
_SCALED = ("rows", "samples", "tokens", "trained_tokens", "packed_rows")


class RowSample:
    """Which rows are looked at."""

    def __init__(self, files: Sequence[Sequence[RowFile]], share: float) -> None:
        """`files`: those of each source, of known sizes. `share`: how much of them is looked at."""
        self.share = share
        self._files, self._parts = files, [_chosen(of_source, share) for of_source in files]
        self._rows_seen, self._bytes_seen = Counter[int](), Counter[int]()

    @classmethod
    def of(cls, files: Sequence[Sequence[RowFile]]) -> RowSample | None:
        """About SAMPLE_BYTES of the files; None if they are small, or if it is not known how large they are."""
        sizes = [size_of(file) for of_source in files for file in of_source]
        is_small = sum(sizes) <= 2 * SAMPLE_BYTES or not all(sizes)
        return None if is_small else cls(files, SAMPLE_BYTES / sum(sizes))

    def scaled(self, data: ConversationData) -> ConversationData:
        """The data with its limits and held-out rows in the sample's proportion."""
        share = self.share
        sources = tuple(
            source.model_copy(
                update={"limit_rows": source.limit_rows and max(1, round(source.limit_rows * share))},
            )
            for source in data.sources
        )
        return data.model_copy(update={"sources": sources, "heldout_rows": max(1, round(data.heldout_rows * share))})

    def blocks(self, source: int, number: int, blocks: Iterator[RowBlock]) -> Iterator[RowBlock]:
        """Those rows of a file that are looked at. `number`: the file's place in its source."""
        left = self._parts[source].get(number, 0.0)
        if not left:
            return
        file = self._files[source][number]
        size, num_rows = size_of(file), _rows_of_table(file)
        for block in blocks:
            part = len(block.rows) / num_rows if num_rows else max(block.bytes_read, 1) / size
            self._rows_seen[source] += len(block.rows)
            self._bytes_seen[source] += round(part * size)
            yield block if part <= left else _thinned(block, left / part)
            left -= part
            if left <= 0:
                return

    def num_rows(self, source: int) -> int:
        """About how many rows a source has, by those that were seen."""
        total = sum(map(size_of, self._files[source]))
        return round(self._rows_seen[source] * total / max(1, self._bytes_seen[source]))


def size_of(file: RowFile) -> int:
    """Bytes of the file as it lies there; 0 if its file system does not say."""
    return file.stat().st_size if isinstance(file, Path) else file.size_bytes


def estimated(counts: Mapping[str, Any], share: float, heldout_rows: int) -> dict[str, Any]:
    """Counts of all rows from those of a sample. Rows that say the same as another are not looked for in a sample."""
    found = dict(counts) | {"repeated_in_training": 0, "truncated_rows": _rounded(counts["truncated_rows"] / share)}
    for name in ("left_out", "unknown_keys"):
        found[name] = {key: _rounded(value / share) for key, value in counts[name].items()}
    found["rows_read"] = {key: _rounded(value) for key, value in counts["rows_read"].items()}
    found["train"] = {
        key: _rounded(value / share) if key in _SCALED else value for key, value in counts["train"].items()
    }
    found["heldout"] = dict(counts["heldout"]) | {"rows": heldout_rows}
    return found


def _rounded(number: float) -> int:
    """To three digits."""
    return int(float(f"{number:.3g}"))


def _chosen(files: Sequence[RowFile], share: float) -> dict[int, float]:
    """Which files of a source are looked at, and how much of each, so that it is this share of the source."""
    count = min(MAX_FILES, len(files))
    places = sorted({round(place) for place in np.linspace(0, len(files) - 1, count).tolist()})
    total, chosen = sum(map(size_of, files)), sum(size_of(files[place]) for place in places)
    return {place: min(1.0, share * total / chosen) for place in places}


def _thinned(block: RowBlock, share: float) -> RowBlock:
    count = min(len(block.rows), max(FEWEST_ROWS, math.ceil(len(block.rows) * share)))
    places = np.linspace(0, len(block.rows), count, endpoint=False)
    return replace(block, rows=tuple(block.rows[int(place)] for place in places.tolist()))


def _rows_of_table(file: RowFile) -> int | None:
    """The rows of a Parquet file, of which whole groups are read before the first row is there; None of others."""
    if format_of(file.name) != "parquet":
        return None
    import pyarrow.parquet as pq

    with closing(SourceStream(file if isinstance(file, Path) else file.uri)) as stream:
        return int(pq.ParquetFile(stream.seekable_content()).metadata.num_rows) or None
