"""Keys that duplicates have in common (one exact key, one for each MinHash band), and the ids of documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.data.text_views import Folded, mixed
from rayloom.errors import InputError
from rayloom.specs.clean import Deduplication

KEY = np.dtype([("key", "<u8"), ("id", "<u8"), ("exact", "<u8"), ("characters", "<u4"), ("shingles", "<u4")])
"""One document under one key (its exact key or a band key), with its id, exact key and size."""


class Keys:
    """The keys of documents, under which duplicates meet."""

    def __init__(self, spec: Deduplication) -> None:
        self._spec = spec
        self._bands = Bands(spec.num_bands, spec.rows_per_band) if spec.near_duplicates else None

    def of(self, ids: Sequence[int], texts: Sequence[str], folded: Sequence[Folded]) -> dict[str, NDArray[Any]]:
        """The records under exact keys (`exact`) and band keys (`bands`) of the documents of one chunk."""
        exact = _exact_keys(ids, texts, folded)
        if self._bands is None:
            return {"exact": exact}
        keys = np.zeros((len(exact), self._bands.num_bands), KEY)
        for index, one in enumerate(folded):
            shingles = one.shingles(self._spec.shingle_words)
            keys[index] = exact[index]
            keys[index]["key"] = self._bands.keys(shingles)
            keys[index]["shingles"] = len(shingles)
        return {"exact": exact, "bands": keys.reshape(-1)}


def _exact_keys(ids: Sequence[int], texts: Sequence[str], folded: Sequence[Folded]) -> NDArray[Any]:
    """One record for each document, under its exact key."""
    records = np.zeros(len(ids), KEY)
    digests = np.frombuffer(b"".join(one.exact_key for one in folded), "<u8").reshape(-1, 2)
    records["key"], records["exact"] = digests[:, 0], digests[:, 1]
    records["id"] = np.asarray(ids, np.uint64)
    records["characters"] = [len(text) for text in texts]
    return records


# MinHash signatures cut into bands: documents that share a band key are candidates for near duplicates.
#
# Broder 1997; Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, chapter 3. Whether a candidate pair is a
# duplicate is then decided by its exact Jaccard similarity (`rayloom.data.dedup.duplicate_passes`).
#
# Shapes: S shingles of a document, H = bands × rows hash functions.

SEED = 19970611
SHINGLES_AT_ONCE = 4096
"""Batch size; the table of permuted shingles then fits into the processor's cache."""


class Bands:
    """`num_bands` keys of 64 bits for a set of shingles."""

    def __init__(self, num_bands: int, rows_per_band: int) -> None:
        self.num_bands, self.rows_per_band = num_bands, rows_per_band
        random = np.random.Generator(np.random.PCG64(SEED))
        count = num_bands * rows_per_band
        # x → a·x + b modulo 2^32 with odd a permutes the 32-bit numbers; shingle hashes are uniform already.
        self._factors = random.integers(0, 1 << 32, (count, 1), np.uint32) | np.uint32(1)
        self._terms = random.integers(0, 1 << 32, (count, 1), np.uint32)
        self._row_factors = random.integers(0, 1 << 64, rows_per_band, np.uint64) | np.uint64(1)
        self._band_terms = random.integers(0, 1 << 64, num_bands, np.uint64)

    def signature(self, shingles: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """(H,) the minimum of each permutation over the S shingles."""
        values = (shingles >> np.uint64(32)).astype(np.uint32)
        smallest = np.full(len(self._factors), np.iinfo(np.uint32).max, np.uint32)
        for begin in range(0, len(values), SHINGLES_AT_ONCE):
            permuted = self._factors * values[begin : begin + SHINGLES_AT_ONCE]
            permuted += self._terms
            np.minimum(smallest, permuted.min(axis=1), out=smallest)
        return smallest

    def keys(self, shingles: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """(bands,) one key for each band. The band's number is hashed in, so keys of different bands do not match."""
        rows = self.signature(shingles).reshape(self.num_bands, self.rows_per_band).astype(np.uint64)
        return mixed((rows * self._row_factors).sum(axis=1, dtype=np.uint64) + self._band_terms)


# Ids of documents, which depend only on the place of a document in the input, not on the order of processing.
#
# An id holds the index of the file in the sorted list of all files (20 bits), the row in the file (34 bits) and the
# piece of the row (10 bits). The order of ids is the order of reading.

MAX_FILES, MAX_ROWS, MAX_PIECES = 1 << 20, 1 << 34, 1 << 10


def document_id(file: int, row: int, piece: int = 0) -> int:
    """The id of a document. Raises InputError if a number does not fit into its bits."""
    if file >= MAX_FILES or row >= MAX_ROWS or piece >= MAX_PIECES:
        what = f"File {file:,}, row {row:,}, piece {piece:,} is more than a document's number can say"
        fix = f"Merge files (up to {MAX_FILES:,}), or split longer documents (up to {MAX_PIECES:,} pieces)."
        raise InputError(what, fix=fix)
    return (file << 44) | (row << 10) | piece


def place_of(document: int) -> tuple[int, int, int]:
    """File, row and piece of an id."""
    return document >> 44, (document >> 10) & (MAX_ROWS - 1), document & (MAX_PIECES - 1)
