"""Pairs of documents from their keys: edges between exact duplicates, and candidate pairs of near duplicates.

Shapes: R records under the keys of one bucket.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAIR = np.dtype([("first", "<u8"), ("second", "<u8")])
"""Two documents, the smaller id first."""
EDGE = np.dtype(
    [
        ("first", "<u8"), ("second", "<u8"), ("first_exact", "<u8"), ("second_exact", "<u8"),
        ("first_characters", "<u4"), ("second_characters", "<u4"),
    ]
)  # fmt: skip
"""Two documents that are duplicates, with their exact keys and lengths."""
NEIGHBOURS = 64
"""Each document of a group is paired with this many next ones in order of size. So groups of up to 65 documents are
compared in full; in a larger one, similar documents are still linked through others of about their size."""


def exact_edges(records: NDArray[Any]) -> NDArray[Any]:
    """An edge from the first document of each set of identical ones to each of the others."""
    records = records[np.lexsort((records["id"], records["exact"], records["key"]))]
    same = _same_as_before(records, "key") & _same_as_before(records, "exact")
    heads = np.maximum.accumulate(np.where(same, 0, np.arange(len(records))))
    return edges_between(records[heads[same]], records[same])


def candidate_pairs(records: NDArray[Any], threshold: float) -> NDArray[Any]:
    """Pairs that share a band key and can reach the threshold; of identical documents only the first is used.

    Jaccard similarity is at most the smaller set's size divided by the larger's, so other pairs are left out.
    """
    records = records[np.lexsort((records["id"], records["exact"], records["key"]))]
    records = records[~(_same_as_before(records, "key") & _same_as_before(records, "exact"))]
    records = records[np.lexsort((records["id"], records["shingles"], records["key"]))]
    found = [pair for pair in _neighbour_pairs(records, threshold) if len(pair)]
    return np.unique(np.concatenate(found)) if found else np.zeros(0, PAIR)


def _neighbour_pairs(records: NDArray[Any], threshold: float) -> Iterator[NDArray[Any]]:
    keys, sizes, ids = records["key"], records["shingles"].astype(np.float64), records["id"]
    for distance in range(1, NEIGHBOURS + 1):
        near = np.flatnonzero(keys[distance:] == keys[:-distance])
        if not len(near):
            return
        near = near[sizes[near] >= threshold * sizes[near + distance]]
        pairs = np.zeros(len(near), PAIR)
        pairs["first"] = np.minimum(ids[near], ids[near + distance])
        pairs["second"] = np.maximum(ids[near], ids[near + distance])
        yield pairs


def edges_between(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Edges between `first[i]` and `second[i]`: records with the fields `id`, `exact` and `characters`."""
    edges = np.zeros(len(first), EDGE)
    for side, records in (("first", first), ("second", second)):
        edges[side] = records["id"]
        edges[f"{side}_exact"] = records["exact"]
        edges[f"{side}_characters"] = records["characters"]
    return edges


def _same_as_before(records: NDArray[Any], name: str) -> NDArray[np.bool_]:
    same = np.zeros(len(records), np.bool_)
    same[1:] = records[name][1:] == records[name][:-1]
    return same
