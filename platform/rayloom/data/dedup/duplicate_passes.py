"""The passes that find duplicates: group by key, fetch the candidates' shingles, verify, cluster.

With the candidate pairs of a bucket and the exact Jaccard similarity of a pair.

Only hashes move between passes, through exchanges on disk. The text is read again for candidates only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.data.dedup import clusters
from rayloom.data.dedup.dedup_keys import KEY
from rayloom.data.exchange.judged_documents import read_documents
from rayloom.data.exchange.scratch import Scratch, receive, send, write_whole
from rayloom.data.text_views import Folded, is_unspaced
from rayloom.specs.clean import Deduplication

REQUEST = np.dtype([("id", "<u8"), ("bucket", "<u8")])
"""A request of a bucket for the shingles of a document, to verify its pairs."""
FETCHED = np.dtype([("id", "<u8"), ("exact", "<u8"), ("characters", "<u4"), ("shingles", "<u4")])


@dataclass(frozen=True)
class DuplicatesPass:
    """Inputs of every task of these passes."""

    spec: Deduplication
    scratch: Scratch
    chunks: tuple[str, ...]
    """Names of all chunks, in the order of their documents' ids."""
    first_ids: NDArray[np.uint64]
    """The smallest id that can be in each chunk."""
    num_buckets: int
    first_earlier_id: int = 1 << 63
    """Documents with ids from here on are of earlier corpora and are never removed."""

    @property
    def has_earlier(self) -> bool:
        return self.first_earlier_id < 1 << 63

    @property
    def buckets(self) -> tuple[str, ...]:
        return tuple(f"{bucket:06d}" for bucket in range(self.num_buckets))

    def chunk_of(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        return np.searchsorted(self.first_ids, ids, side="right") - 1


def group(given: DuplicatesPass, bucket: int) -> dict[str, int]:
    """Writes edges between exact duplicates of a bucket, and requests the shingles of every candidate."""
    name, scratch = given.buckets[bucket], given.scratch
    exact = receive(scratch.folder("exact"), given.chunks, bucket, given.num_buckets, KEY)
    edges = exact_edges(exact)
    _save(scratch.folder("edges") / f"exact-{name}", edges)
    if given.spec.near_duplicates:
        keys = receive(scratch.folder("bands"), given.chunks, bucket, given.num_buckets, KEY)
        pairs = candidate_pairs(keys, given.spec.similarity_threshold)
        homes = (pairs["first"] % np.uint64(given.num_buckets)).astype(np.int64)
        send(scratch.folder("pairs"), name, pairs, homes, given.num_buckets)
        requests = np.zeros(2 * len(pairs), REQUEST)
        requests["id"] = np.concatenate([pairs["first"], pairs["second"]])
        requests["bucket"] = np.concatenate([homes, homes])
        requests = np.unique(requests)
        send(scratch.folder("requests"), name, requests, given.chunk_of(requests["id"]), len(given.chunks))
    return {}


def fetch(given: DuplicatesPass, chunk: int) -> dict[str, int]:
    """Reads the chunk's candidates again and sends their shingles to the buckets that requested them."""
    scratch, name = given.scratch, given.chunks[chunk]
    requests = np.unique(receive(scratch.folder("requests"), given.buckets, chunk, len(given.chunks), REQUEST))
    ids = np.unique(requests["id"])
    shingles, about = _shingles(given, scratch.folder("judged") / f"{name}.arrow", ids)
    indices = np.searchsorted(ids, requests["id"])
    homes = requests["bucket"].astype(np.int64)
    send(scratch.folder("fetched"), f"{name}.documents", about[indices], homes, given.num_buckets)
    sent = [shingles[index] for index in indices]
    sizes = [len(array) for array in sent]
    hashes = np.concatenate(sent) if sent else np.zeros(0, np.uint64)
    send(scratch.folder("fetched"), f"{name}.shingles", hashes, np.repeat(homes, sizes), given.num_buckets)
    return {}


def _shingles(
    given: DuplicatesPass, path: Path, ids: NDArray[np.uint64]
) -> tuple[list[NDArray[np.uint64]], NDArray[Any]]:
    """Sets of shingles and the records (exact key, size) of the documents `ids` (sorted) of one chunk."""
    sets: list[NDArray[np.uint64]] = []
    about = np.zeros(len(ids), FETCHED)
    for batch in read_documents(path) if len(ids) else ():
        for index in np.flatnonzero(np.isin(batch["id"], ids)):
            text = batch["text"][index]
            found = Folded(text, is_unspaced(text)).shingles(given.spec.shingle_words)
            about[len(sets)] = (batch["id"][index], batch["split_hash"][index], len(text), len(found))
            sets.append(found)
    return sets, about


def verify(given: DuplicatesPass, bucket: int) -> dict[str, int]:
    """Keeps the pairs whose exact similarity reaches the threshold."""
    scratch = given.scratch
    pairs = np.unique(receive(scratch.folder("pairs"), given.buckets, bucket, given.num_buckets, PAIR))
    folder, count = scratch.folder("fetched"), given.num_buckets
    about = receive(folder, [f"{name}.documents" for name in given.chunks], bucket, count, FETCHED)
    hashes = receive(folder, [f"{name}.shingles" for name in given.chunks], bucket, count, np.uint64)
    ends = np.cumsum(about["shingles"], dtype=np.int64)
    order = np.argsort(about["id"])
    firsts = order[np.searchsorted(about["id"], pairs["first"], sorter=order)]
    seconds = order[np.searchsorted(about["id"], pairs["second"], sorter=order)]
    begins = ends - about["shingles"]

    def similar(first: int, second: int) -> bool:
        sets = (hashes[begins[first] : ends[first]], hashes[begins[second] : ends[second]])
        return is_similar(*sets, given.spec.similarity_threshold)

    kept = np.fromiter(map(similar, firsts, seconds), np.bool_, len(pairs))
    edges = edges_between(about[firsts[kept]], about[seconds[kept]])
    _save(scratch.folder("edges") / f"near-{given.buckets[bucket]}", edges)
    return {"candidate_pairs": len(pairs), "verified_pairs": len(edges)}


def cluster(given: DuplicatesPass) -> dict[str, int]:
    """Chooses the document of each cluster to keep; writes the others to `removed`, by chunk."""
    edges = _load_edges(given.scratch.folder("edges"), given.buckets)
    removed = clusters.removed(edges, given.first_earlier_id)
    send(given.scratch.folder("removed"), "all", removed, given.chunk_of(removed["id"]), len(given.chunks))
    keepers = np.unique(removed["kept"])
    send(given.scratch.folder("keepers"), "all", keepers, given.chunk_of(keepers), len(given.chunks))
    exact = int(removed["is_exact"].sum())
    return {"clusters": len(keepers), "exact_duplicates": exact, "near_duplicates": len(removed) - exact} | (
        {"duplicates_of_earlier": int((removed["kept"] >= given.first_earlier_id).sum())} if given.has_earlier else {}
    )


def removed_of(given: DuplicatesPass, chunk: int) -> NDArray[Any]:
    """The removed documents of one chunk, sorted by id."""
    return receive(given.scratch.folder("removed"), ["all"], chunk, len(given.chunks), clusters.REMOVED)


def keepers_of(given: DuplicatesPass, chunk: int) -> NDArray[np.uint64]:
    """Ids of the documents of one chunk that were kept instead of duplicates."""
    return receive(given.scratch.folder("keepers"), ["all"], chunk, len(given.chunks), np.uint64)


def _load_edges(folder: Path, buckets: Sequence[str]) -> NDArray[Any]:
    files = [folder / f"{kind}-{name}" for kind in ("exact", "near") for name in buckets]
    return np.concatenate([np.fromfile(file, EDGE) for file in files if file.exists()])


def _save(path: Path, records: NDArray[Any]) -> None:
    write_whole(path, lambda file: file.write(records.tobytes()))


# Pairs of documents from their keys: edges between exact duplicates, and candidate pairs of near duplicates.
#
# Shapes: R records under the keys of one bucket.

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


# Exact Jaccard similarity of two documents' sets of shingle hashes.


def jaccard(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> float:
    """|A ∩ B| / |A ∪ B| of two sorted arrays of hashes; 1 for two empty ones."""
    if not len(first) and not len(second):
        return 1.0
    if len(first) > len(second):
        first, second = second, first
    indices = np.minimum(np.searchsorted(second, first), len(second) - 1)
    shared = int((second[indices] == first).sum())
    return shared / (len(first) + len(second) - shared)


def is_similar(first: NDArray[np.uint64], second: NDArray[np.uint64], threshold: float) -> bool:
    # 9 shared of 10 must reach a threshold of 0.9 despite rounding of the quotient.
    return jaccard(first, second) >= threshold - 1e-12
