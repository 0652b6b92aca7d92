"""Keys that duplicates have in common (one exact key, one for each MinHash band), and the ids of documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.errors import InputError
from rayloom.specs.clean import Deduplication
from rayloom.text.minhash import Bands
from rayloom.text.text_views import Folded

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
