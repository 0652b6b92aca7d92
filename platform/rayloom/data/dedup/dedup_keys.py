"""Keys that duplicates have in common: one exact key for each document, and one for each MinHash band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.data.dedup.minhash import Bands
from rayloom.data.exchange.scratch import Scratch, send
from rayloom.data.views.comparison_form import Folded
from rayloom.specs.clean import Deduplication

KEY = np.dtype([("key", "<u8"), ("id", "<u8"), ("exact", "<u8"), ("characters", "<u4"), ("shingles", "<u4")])
"""One document under one key (its exact key or a band key), with its id, exact key and size."""


class Keys:
    """Sends the keys of documents to the buckets in which they are grouped."""

    def __init__(self, scratch: Scratch, spec: Deduplication, num_buckets: int) -> None:
        self._scratch, self._spec, self._num_buckets = scratch, spec, num_buckets
        self._bands = Bands(spec.num_bands, spec.rows_per_band) if spec.near_duplicates else None

    def send(self, writer: str, ids: Sequence[int], texts: Sequence[str], folded: Sequence[Folded]) -> None:
        """Sends the keys of the documents of one chunk, `writer`."""
        exact = _exact_keys(ids, texts, folded)
        self._send("exact", writer, exact)
        if self._bands is None:
            return
        keys = np.zeros((len(exact), self._bands.num_bands), KEY)
        for index, one in enumerate(folded):
            shingles = one.shingles(self._spec.shingle_words)
            keys[index] = exact[index]
            keys[index]["key"] = self._bands.keys(shingles)
            keys[index]["shingles"] = len(shingles)
        self._send("bands", writer, keys.reshape(-1))

    def _send(self, kind: str, writer: str, records: NDArray[Any]) -> None:
        buckets = (records["key"] % np.uint64(self._num_buckets)).astype(np.int64)
        send(self._scratch.folder(kind), writer, records, buckets, self._num_buckets)


def _exact_keys(ids: Sequence[int], texts: Sequence[str], folded: Sequence[Folded]) -> NDArray[Any]:
    """One record for each document, under its exact key."""
    records = np.zeros(len(ids), KEY)
    digests = np.frombuffer(b"".join(one.exact_key for one in folded), "<u8").reshape(-1, 2)
    records["key"], records["exact"] = digests[:, 0], digests[:, 1]
    records["id"] = np.asarray(ids, np.uint64)
    records["characters"] = [len(text) for text in texts]
    return records
