"""Clusters of duplicates, and the one document of each that is kept.

Shapes: E edges, N documents that have a duplicate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

REMOVED = np.dtype([("id", "<u8"), ("kept", "<u8"), ("is_exact", "u1")])
"""A removed document, the one that was kept instead, and whether it is an exact duplicate."""
_NODE = np.dtype([("id", "<u8"), ("exact", "<u8"), ("characters", "<u4")])


def removed(edges: NDArray[Any], first_earlier_id: int = 1 << 63) -> NDArray[Any]:
    """The removed documents by id. Each connected component keeps its longest document, of equally long ones the first.

    Documents with ids from `first_earlier_id` on are of earlier corpora: they are never removed, and a cluster that has
    one keeps it instead of a new document.

    A removed document is an exact duplicate if another of its cluster has the same exact key and is kept or comes
    before it in the order of length and id; otherwise it is a near duplicate.
    """
    nodes = _nodes(edges)
    firsts = np.searchsorted(nodes["id"], edges["first"])
    seconds = np.searchsorted(nodes["id"], edges["second"])
    graph = coo_array((np.ones(len(edges), np.bool_), (firsts, seconds)), shape=(len(nodes), len(nodes)))
    _, cluster = connected_components(graph, directed=False)
    is_new = nodes["id"] < np.uint64(first_earlier_id)
    order = np.lexsort((nodes["id"], -nodes["characters"].astype(np.int64), is_new, cluster))
    ranked, cluster = nodes[order], cluster[order]
    stays = np.append(True, cluster[1:] != cluster[:-1])[: len(ranked)]
    keeper = np.maximum.accumulate(np.where(stays, np.arange(len(ranked)), 0))
    found = np.zeros(len(ranked), REMOVED)
    found["id"], found["kept"] = ranked["id"], ranked["id"][keeper]
    found["is_exact"] = _came_before(cluster, ranked["exact"])
    found = found[~stays & is_new[order]]
    removed: NDArray[Any] = found[np.argsort(found["id"])]
    return removed


def _nodes(edges: NDArray[Any]) -> NDArray[Any]:
    """The documents at the ends of edges, each once, by id."""
    nodes = np.zeros(2 * len(edges), _NODE)
    for half, side in ((slice(None, len(edges)), "first"), (slice(len(edges), None), "second")):
        nodes["id"][half] = edges[side]
        nodes["exact"][half] = edges[f"{side}_exact"]
        nodes["characters"][half] = edges[f"{side}_characters"]
    _, first_indices = np.unique(nodes["id"], return_index=True)
    return nodes[first_indices]


def _came_before(cluster: NDArray[Any], exact: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether an earlier document of the same cluster has the same exact key."""
    order = np.lexsort((np.arange(len(exact)), exact, cluster))
    same = np.zeros(len(exact), np.bool_)
    same[1:] = (cluster[order][1:] == cluster[order][:-1]) & (exact[order][1:] == exact[order][:-1])
    result = np.zeros(len(exact), np.bool_)
    result[order] = same
    return result
