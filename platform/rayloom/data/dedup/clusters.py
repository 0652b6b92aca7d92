"""Clusters of duplicates, and the one document of each that is kept.

A few edges are clustered at once (`labelled`). More are clustered in rounds, so that no task holds them all: the
operations large-star and small-star of Kiveris et al. 2014 (Connected Components in MapReduce and Beyond, algorithms 3
to 5), until each document has one edge, to the smallest id of its cluster. A round sends each edge four times, 16 bytes
each.

Shapes: E edges, N documents that have a duplicate.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rayloom.data.exchange.mail import Mail
from rayloom.data.passes import Exchange, Passes, TaskCounts, summed
from rayloom.text.text_views import mixed

if TYPE_CHECKING:
    from rayloom.data.dedup.duplicate_passes import DuplicatesPass

EDGE = np.dtype(
    [
        ("first", "<u8"), ("second", "<u8"), ("first_exact", "<u8"), ("second_exact", "<u8"),
        ("first_characters", "<u4"), ("second_characters", "<u4"),
    ]
)  # fmt: skip
"""Two documents that are duplicates, with their exact keys and lengths."""
REMOVED = np.dtype([("id", "<u8"), ("kept", "<u8"), ("is_exact", "u1")])
"""A removed document, the one that was kept instead, and whether it is an exact duplicate."""
NODE = np.dtype([("id", "<u8"), ("exact", "<u8"), ("characters", "<u4")])
MEMBER = np.dtype([("label", "<u8"), *NODE.descr])
"""A document and its cluster, named by its smallest id."""
LINK = np.dtype([("of", "<u8"), ("to", "<u8")])
"""An edge as one of its documents sees it."""
EDGES_AT_ONCE = 1_000_000
"""Most edges that one task clusters: 40 MB of them, and about 400 MB of memory."""


def edges_between(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Edges between `first[i]` and `second[i]`: records with the fields `id`, `exact` and `characters`."""
    edges = np.zeros(len(first), EDGE)
    for side, records in (("first", first), ("second", second)):
        edges[side] = records["id"]
        edges[f"{side}_exact"] = records["exact"]
        edges[f"{side}_characters"] = records["characters"]
    return edges


def cluster(
    passes: Passes, edges: Sequence[Exchange], num_edges: int, given: DuplicatesPass
) -> tuple[list[TaskCounts], Exchange]:
    """Counts, and an exchange that brings each group of chunks its documents that are removed and kept.

    `edges`: exchanges that bring the edges to buckets by their first document.
    """
    buckets, to_groups = range(given.num_buckets), {"chosen": len(given.groups)}
    if num_edges <= EDGES_AT_ONCE:
        _, sent = passes.exchange("clustering", buckets, _gather, reads=edges, writes={"edges": 1})
        work = functools.partial(_cluster_all, given)
        counts, sent = passes.exchange("clustering", [0], work, reads=[sent["edges"]], writes=to_groups)
        return counts, sent["chosen"]
    members = _labelled_in_rounds(passes, edges, given)
    work = functools.partial(_choose, given)
    counts, sent = passes.exchange("choosing", buckets, work, reads=[members], writes=to_groups)
    return counts, sent["chosen"]


def _gather(_: int, mail: Mail) -> TaskCounts:
    mail.send("edges", "edges", mail.take("edges", EDGE), 0)
    return {}


def _cluster_all(given: DuplicatesPass, _: int, mail: Mail) -> TaskCounts:
    return _send_chosen(given, labelled(mail.take("edges", EDGE)), mail)


def _choose(given: DuplicatesPass, _: int, mail: Mail) -> TaskCounts:
    return _send_chosen(given, mail.take("members", MEMBER), mail)


def _send_chosen(given: DuplicatesPass, members: NDArray[Any], mail: Mail) -> TaskCounts:
    removed = removed_members(members, given.first_earlier_id)
    keepers = np.unique(removed["kept"])
    mail.send("chosen", "removed", removed, given.group_of(removed["id"]))
    mail.send("chosen", "keepers", keepers, given.group_of(keepers))
    exact = int(removed["is_exact"].sum())
    return {"clusters": len(keepers), "exact_duplicates": exact, "near_duplicates": len(removed) - exact} | (
        {"duplicates_of_earlier": int((removed["kept"] >= given.first_earlier_id).sum())} if given.has_earlier else {}
    )


def labelled(edges: NDArray[Any]) -> NDArray[Any]:
    """The documents of edges, each once, by id, with their clusters."""
    nodes = nodes_of(edges)
    firsts = np.searchsorted(nodes["id"], edges["first"])
    seconds = np.searchsorted(nodes["id"], edges["second"])
    graph = coo_array((np.ones(len(edges), np.bool_), (firsts, seconds)), shape=(len(nodes), len(nodes)))
    number, cluster = connected_components(graph, directed=False)
    smallest = np.full(number, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, cluster, nodes["id"])
    return _members(nodes, smallest[cluster])


def _members(nodes: NDArray[Any], labels: NDArray[np.uint64]) -> NDArray[Any]:
    members = np.zeros(len(nodes), MEMBER)
    members["label"] = labels
    for name in NODE.names or ():
        members[name] = nodes[name]
    return members


def nodes_of(edges: NDArray[Any]) -> NDArray[Any]:
    """The documents at the ends of edges, each once, by id."""
    nodes = np.zeros(2 * len(edges), NODE)
    for half, side in ((slice(None, len(edges)), "first"), (slice(len(edges), None), "second")):
        nodes["id"][half] = edges[side]
        nodes["exact"][half] = edges[f"{side}_exact"]
        nodes["characters"][half] = edges[f"{side}_characters"]
    return _each_once(nodes)


def _each_once(nodes: NDArray[Any]) -> NDArray[Any]:
    _, first_indices = np.unique(nodes["id"], return_index=True)
    return nodes[first_indices]


def removed_members(members: NDArray[Any], first_earlier_id: int = 1 << 63) -> NDArray[Any]:
    """The removed documents by id. Each cluster keeps its longest document, of equally long ones the first.

    Documents with ids from `first_earlier_id` on are of earlier corpora: they are never removed, and a cluster that has
    one keeps it instead of a new document.

    A removed document is an exact duplicate if another of its cluster has the same exact key and is kept or comes
    before it in the order of length and id; otherwise it is a near duplicate.
    """
    is_new = members["id"] < np.uint64(first_earlier_id)
    order = np.lexsort((members["id"], -members["characters"].astype(np.int64), is_new, members["label"]))
    ranked, cluster = members[order], members["label"][order]
    stays = np.append(True, cluster[1:] != cluster[:-1])[: len(ranked)]
    keeper = np.maximum.accumulate(np.where(stays, np.arange(len(ranked)), 0))
    found = np.zeros(len(ranked), REMOVED)
    found["id"], found["kept"] = ranked["id"], ranked["id"][keeper]
    found["is_exact"] = _came_before(cluster, ranked["exact"])
    found = found[~stays & is_new[order]]
    removed: NDArray[Any] = found[np.argsort(found["id"])]
    return removed


def _came_before(cluster: NDArray[Any], exact: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether an earlier document of the same cluster has the same exact key."""
    order = np.lexsort((np.arange(len(exact)), exact, cluster))
    same = np.zeros(len(exact), np.bool_)
    same[1:] = (cluster[order][1:] == cluster[order][:-1]) & (exact[order][1:] == exact[order][:-1])
    result = np.zeros(len(exact), np.bool_)
    result[order] = same
    return result


# -- in rounds ---------------------------------------------------------------------------------------------------------


def _labelled_in_rounds(passes: Passes, edges: Sequence[Exchange], given: DuplicatesPass) -> Exchange:
    """An exchange that brings the documents of a cluster, as `MEMBER`, to one bucket."""
    buckets, to_buckets = range(given.num_buckets), given.num_buckets

    def stage(step: Any, reads: Sequence[Exchange], *names: str) -> tuple[TaskCounts, dict[str, Exchange]]:
        work = functools.partial(step, given)
        writes = dict.fromkeys(names, to_buckets)
        records, sent = passes.exchange("clustering in rounds", buckets, work, reads=reads, writes=writes)
        return summed(records), sent

    _, sent = stage(_contract, edges, "links", "nodes")
    nodes, before = sent["nodes"], None
    while True:
        _, sent = stage(_large_star, [sent["links"]], "links")
        found, sent = stage(_small_star, [sent["links"]], "links", "labels")
        if found == before:
            break
        before = found
    return stage(_label, [sent["labels"], nodes], "members")[1]["members"]


def _contract(given: DuplicatesPass, _: int, mail: Mail) -> TaskCounts:
    """Sends each document of a bucket's edges once, with its link to the smallest one that these edges reach."""
    members = labelled(mail.take("edges", EDGE))
    nodes = np.zeros(len(members), NODE)
    for name in NODE.names or ():
        nodes[name] = members[name]
    mail.send("nodes", "nodes", nodes, given.bucket_of(nodes["id"]))
    inner = members[members["id"] != members["label"]]
    _send_both_ways(given, inner["id"], inner["label"], mail)
    return {}


def _send_both_ways(given: DuplicatesPass, ids: NDArray[np.uint64], others: NDArray[np.uint64], mail: Mail) -> None:
    for of, to in ((ids, others), (others, ids)):
        _send_links(given, "links", of, to, mail)


def _send_links(
    given: DuplicatesPass, exchange: str, of: NDArray[np.uint64], to: NDArray[np.uint64], mail: Mail
) -> None:
    links = np.zeros(len(of), LINK)
    links["of"], links["to"] = of, to
    mail.send(exchange, "links", links, given.bucket_of(links["of"]))


def _large_star(given: DuplicatesPass, _: int, mail: Mail) -> TaskCounts:
    """Links the larger neighbours of each document to the smallest of itself and all neighbours."""
    links, smallest = _with_smallest(mail)
    larger = links["to"] > links["of"]
    of, to = links["to"][larger], np.minimum(smallest, links["of"])[larger]
    # Each link goes to its larger document, whose smaller neighbours small-star compares.
    _send_links(given, "links", of, to, mail)
    return {}


def _small_star(given: DuplicatesPass, _: int, mail: Mail) -> TaskCounts:
    """Links each document and its smaller neighbours to the smallest of them; sums up all links that came in.

    The sums are equal in two rounds if and only if (but for a collision of 128 bits) nothing changed.
    """
    links, smallest = _with_smallest(mail)
    of = np.concatenate([links["of"], links["to"]])
    to = np.concatenate([smallest, smallest])
    inner = of != to
    pairs = np.zeros(int(inner.sum()), LINK)
    pairs["of"], pairs["to"] = of[inner], to[inner]
    pairs = np.unique(pairs)
    _send_both_ways(given, pairs["of"], pairs["to"], mail)
    _send_links(given, "labels", links["of"], links["to"], mail)
    hashes = mixed(mixed(links["of"].copy()) ^ links["to"])
    halves = (hashes & np.uint64(0xFFFFFFFF), hashes >> np.uint64(32))
    return {"links": len(links), "sums": {str(n): int(half.sum(dtype=np.uint64)) for n, half in enumerate(halves)}}


def _with_smallest(mail: Mail) -> tuple[NDArray[Any], NDArray[np.uint64]]:
    """The links of this bucket, each once, sorted, and for each the smallest document that its `of` is linked to."""
    links = np.unique(mail.take("links", LINK))
    begins = np.flatnonzero(np.append(True, links["of"][1:] != links["of"][:-1])[: len(links)])
    return links, np.repeat(links["to"][begins], np.diff(np.append(begins, len(links))))


def _label(given: DuplicatesPass, _: int, mail: Mail) -> TaskCounts:
    """Sends each document to its cluster's bucket; one without a link is the smallest of its cluster."""
    nodes, links = _each_once(mail.take("nodes", NODE)), np.unique(mail.take("links", LINK))
    labels = nodes["id"].copy()
    labels[np.searchsorted(nodes["id"], links["of"])] = links["to"]
    members = _members(nodes, labels)
    mail.send("members", "members", members, given.bucket_of(members["label"]))
    return {}
