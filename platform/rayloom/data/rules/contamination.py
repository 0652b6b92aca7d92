"""Passages of evaluation sets found in documents: shared word n-grams (Brown et al. 2020, arXiv:2005.14165, app. C).

A passage is a run of n words, ignoring case and punctuation; a row of fewer words is one passage as a whole. Passages
are stored as sorted hashes in files that all processes of a node map into memory.

Shapes: P passages, W n-grams of a document.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.data.rules.repetition import CHARACTERS_PER_WORD
from rayloom.data.sources.document_rows import document_rows
from rayloom.errors import InputError
from rayloom.reading.records import BadRow
from rayloom.reading.source_stream import SourceStream
from rayloom.specs.clean import Decontamination
from rayloom.specs.cleaning.text_sources import DocumentFiles
from rayloom.text.text_views import Folded, is_unspaced

PASSAGE = np.dtype([("hash", "<u8"), ("set", "<u2"), ("units", "<u2"), ("row", "<u4"), ("is_unspaced", "u1")])
"""A passage of `units` words (in scripts without spaces, characters), and its evaluation set and row."""
OF_ROW = np.dtype([("set", "<u2"), ("row", "<u4")])
MAX_ROW_BYTES = 16 << 20
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class EvaluationFile:
    """A file of the evaluation set with this index."""

    set: int
    path: str
    name: str


def compared(text: str) -> Folded:
    """The form of a text in which passages are compared: words (in scripts without spaces, characters) only."""
    unspaced = is_unspaced(text)
    return Folded(("" if unspaced else " ").join(_WORD.findall(text)), unspaced)


def build(spec: Decontamination, files: Sequence[EvaluationFile], folder: Path) -> dict[str, Any]:
    """Reads the evaluation sets and writes their passages to a folder; returns each set's counts.

    Raises InputError if a set has no passage.
    """
    counts = [Counter({"rows": 0, "unreadable": 0, "too_short": 0, "passages": 0}) for _ in spec.against]
    found = [np.zeros(0, PASSAGE)]
    row_numbers: Counter[int] = Counter()
    for file in files:
        for text in _texts(spec.against[file.set], file):
            if text is None:
                counts[file.set]["unreadable"] += 1
                continue
            row_numbers[file.set] += 1
            passages = _passages(spec, compared(text))
            counts[file.set].update({"rows": 1, "too_short": int(not len(passages)), "passages": len(passages)})
            passages["set"], passages["row"] = file.set, row_numbers[file.set]
            found.append(passages)
    for one, count in zip(spec.against, counts, strict=True):
        if not count["passages"]:
            what = f"The evaluation set {one.name} has no passage of {spec.min_words} words or more"
            fix = "Correct its files, format or text_columns, or lower decontamination.min_words."
            raise InputError(f"{what} ({count['rows']:,} rows, {count['unreadable']:,} unreadable)", fix=fix)
    _save(np.unique(np.concatenate(found)), [one.name for one in spec.against], folder)
    return {one.name: dict(count) for one, count in zip(spec.against, counts, strict=True)}


def _texts(source: DocumentFiles, file: EvaluationFile) -> Iterator[str | None]:
    with closing(SourceStream(file.path)) as opened:
        for row in document_rows(source, opened, file.name, MAX_ROW_BYTES):
            yield None if isinstance(row, BadRow) else row.text


def _passages(spec: Decontamination, text: Folded) -> NDArray[Any]:
    scale = CHARACTERS_PER_WORD if text.is_unspaced else 1
    longest, shortest = round(spec.ngram_words * scale), round(spec.min_words * scale)
    units = min(longest, text.num_units)
    hashes = np.unique(text.ngrams(units)) if units >= shortest else np.zeros(0, np.uint64)
    passages = np.zeros(len(hashes), PASSAGE)
    passages["hash"], passages["units"], passages["is_unspaced"] = hashes, units, text.is_unspaced
    return passages


def _save(passages: NDArray[Any], names: list[str], folder: Path) -> None:
    """Writes the passages of each script and length sorted by hash; hashes in a file of their own, to be mapped."""
    kinds = np.unique(passages[["is_unspaced", "units"]]).tolist()
    for unspaced, units in kinds:
        mine = passages[(passages["is_unspaced"] == unspaced) & (passages["units"] == units)]
        for part, array in (("hashes", mine["hash"]), ("rows", mine[["set", "row"]])):
            content = np.ascontiguousarray(array) if part == "hashes" else array.astype(OF_ROW)
            content.tofile(folder / f"{unspaced}-{units}.{part}")
    index = {"names": names, "kinds": kinds}
    (folder / "index.json").write_text(json.dumps(index))


@dataclass(frozen=True)
class _Group:
    """Passages of one script and length, sorted by hash."""

    is_unspaced: bool
    units: int
    hashes: NDArray[np.uint64]
    """(P,)"""
    rows: NDArray[Any]
    """(P,) OF_ROW."""

    def shared(self, hashes: NDArray[np.uint64]) -> Iterator[tuple[int, int, int]]:
        """Every match as (index of the document's n-gram, evaluation set, row)."""
        begins = np.searchsorted(self.hashes, hashes)
        is_there = begins < len(self.hashes)
        is_there[is_there] = self.hashes[begins[is_there]] == hashes[is_there]
        for position in np.flatnonzero(is_there).tolist():
            end = int(np.searchsorted(self.hashes, hashes[position], side="right"))
            for row in self.rows[begins[position] : end]:
                yield position, int(row["set"]), int(row["row"])


class Passages:
    """Lookup of documents in the passages of all evaluation sets."""

    def __init__(self, groups: Sequence[_Group], names: Sequence[str]) -> None:
        self._groups, self._names = groups, names

    @classmethod
    def load(cls, folder: Path) -> Passages:
        index = json.loads((folder / "index.json").read_text())
        groups = []
        for unspaced, units in index["kinds"]:
            hashes = np.memmap(folder / f"{unspaced}-{units}.hashes", np.uint64, "r")
            rows = np.memmap(folder / f"{unspaced}-{units}.rows", OF_ROW, "r")
            groups.append(_Group(bool(unspaced), units, hashes, rows))
        return cls(groups, index["names"])

    def hits(self, text: str) -> list[dict[str, Any]]:
        """Every evaluation row that shares a passage with the text, with the first such passage."""
        folded = compared(text)
        found: dict[tuple[int, int], dict[str, Any]] = {}
        for group in self._groups:
            if group.is_unspaced != folded.is_unspaced:
                continue
            for position, number, row in group.shared(folded.ngrams(group.units)):
                about = {"evaluation_set": self._names[number], "evaluation_row": row}
                found.setdefault((number, row), about | {"passage": folded.units_text(position, group.units)})
        return [found[key] for key in sorted(found)]
