"""The passes that find duplicates: collect and group by key, fetch the candidates' shingles, verify, cluster.

With the candidate pairs of a bucket.

Only hashes move between tasks. The text is read again for candidates only.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.data.dedup import clusters
from rayloom.data.dedup.clusters import REMOVED, edges_between
from rayloom.data.dedup.dedup_keys import KEY
from rayloom.data.exchange.judged_documents import read_documents
from rayloom.data.exchange.mail import Mail
from rayloom.data.exchange.work_files import WorkFiles, array_of
from rayloom.data.passes import Passes, TaskCounts, summed
from rayloom.data.sources.chunk_table import ChunkTable
from rayloom.specs.clean import Deduplication
from rayloom.text.minhash import is_similar
from rayloom.text.text_views import Folded, is_unspaced

REQUEST = np.dtype([("id", "<u8"), ("bucket", "<u8")])
"""A request of a bucket for the shingles of a document, to verify its pairs."""
FETCHED = np.dtype([("id", "<u8"), ("exact", "<u8"), ("characters", "<u4"), ("shingles", "<u4")])


@dataclass(frozen=True, eq=False)
class DuplicatesPass:
    """Inputs of every task of these passes."""

    spec: Deduplication
    work: WorkFiles
    chunks: ChunkTable
    """The new chunks, followed by those of earlier corpora."""
    groups: tuple[range, ...]
    """Groups of the new chunks, followed by those of earlier ones."""
    num_buckets: int
    first_earlier_id: int = 1 << 63
    """Documents with ids from here on are of earlier corpora and are never removed."""

    @property
    def has_earlier(self) -> bool:
        return self.first_earlier_id < 1 << 63

    @functools.cached_property
    def _first_ids(self) -> NDArray[np.uint64]:
        return np.asarray([self.chunks.id_range(group[0])[0] for group in self.groups], np.uint64)

    def group_of(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        return np.searchsorted(self._first_ids, ids, side="right") - 1

    def bucket_of(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        return (keys % np.uint64(self.num_buckets)).astype(np.int64)


def find_duplicates(given: DuplicatesPass, passes: Passes) -> TaskCounts:
    """Writes the removed documents of each group of chunks to the work folder; returns counts."""
    groups, buckets = range(len(given.groups)), range(given.num_buckets)
    to_buckets, to_groups = given.num_buckets, len(given.groups)
    part = functools.partial

    _, sent = passes.exchange("collecting keys", groups, part(collect, given), writes={"keys": to_buckets})
    writes = {"exact": to_buckets, "pairs": to_buckets, "requests": to_groups}
    found, sent = passes.exchange("grouping", buckets, part(group, given), reads=[sent["keys"]], writes=writes)
    edges = [sent["exact"]]
    if given.spec.near_duplicates:
        pairs, reads = sent["pairs"], [sent["requests"]]
        _, sent = passes.exchange("fetching", groups, part(fetch, given), reads=reads, writes={"fetched": to_buckets})
        reads = [pairs, sent["fetched"]]
        verified, sent = passes.exchange(
            "verifying", buckets, part(verify, given), reads=reads, writes={"near": to_buckets}
        )
        found += verified
        edges.append(sent["near"])
    counts = summed(found)
    clustered, removed = clusters.cluster(passes, edges, counts.pop("edges", 0), given)
    passes.exchange("marking", groups, part(mark, given), reads=[removed])
    return counts | summed(clustered)


def collect(given: DuplicatesPass, group: int, mail: Mail) -> TaskCounts:
    """Sends the keys of a group's documents to the buckets in which they are grouped."""
    for chunk in given.groups[group]:
        for kind, part in given.work.read_parts(f"keys/{given.chunks.name(chunk)}").items():
            records = array_of(part, KEY)
            mail.send("keys", kind, records, given.bucket_of(records["key"]))
    return {}


def group(given: DuplicatesPass, _: int, mail: Mail) -> TaskCounts:
    """Sends edges between exact duplicates of a bucket, candidate pairs, and requests for the candidates' shingles."""
    edges = exact_edges(mail.take("exact", KEY))
    mail.send("exact", "edges", edges, given.bucket_of(edges["first"]))
    if given.spec.near_duplicates:
        pairs = candidate_pairs(mail.take("bands", KEY), given.spec.similarity_threshold)
        homes = given.bucket_of(pairs["first"])
        mail.send("pairs", "pairs", pairs, homes)
        requests = np.zeros(2 * len(pairs), REQUEST)
        requests["id"] = np.concatenate([pairs["first"], pairs["second"]])
        requests["bucket"] = np.concatenate([homes, homes])
        requests = np.unique(requests)
        mail.send("requests", "requests", requests, given.group_of(requests["id"]))
    return {"edges": len(edges)}


def fetch(given: DuplicatesPass, group: int, mail: Mail) -> TaskCounts:
    """Reads the group's candidates again and sends their shingles to the buckets that requested them."""
    every = np.unique(mail.take("requests", REQUEST))
    for chunk in given.groups[group]:
        low, high = given.chunks.id_range(chunk)
        requests = every[slice(*np.searchsorted(every["id"], np.asarray([low, high], np.uint64)))]
        if not len(requests):
            continue
        ids = np.unique(requests["id"])
        content = given.work.read(f"documents/{given.chunks.name(chunk)}")
        shingles, about = _shingles(given, content, ids)
        indices = np.searchsorted(ids, requests["id"])
        homes = requests["bucket"].astype(np.int64)
        mail.send("fetched", "documents", about[indices], homes)
        sent = [shingles[index] for index in indices]
        sizes = [len(array) for array in sent]
        mail.send("fetched", "shingles", np.concatenate(sent), np.repeat(homes, sizes))
    return {}


def _shingles(
    given: DuplicatesPass, content: bytes, ids: NDArray[np.uint64]
) -> tuple[list[NDArray[np.uint64]], NDArray[Any]]:
    """Sets of shingles and the records (exact key, size) of the documents `ids` (sorted) of one chunk."""
    sets: list[NDArray[np.uint64]] = []
    about = np.zeros(len(ids), FETCHED)
    for batch in read_documents(content):
        for index in np.flatnonzero(np.isin(batch["id"], ids)):
            text = batch["text"][index]
            found = Folded(text, is_unspaced(text)).shingles(given.spec.shingle_words)
            about[len(sets)] = (batch["id"][index], batch["split_hash"][index], len(text), len(found))
            sets.append(found)
    return sets, about


def verify(given: DuplicatesPass, _: int, mail: Mail) -> TaskCounts:
    """Sends the pairs whose exact similarity reaches the threshold, as edges."""
    pairs = np.unique(mail.take("pairs", PAIR))
    about, hashes = mail.take("documents", FETCHED), mail.take("shingles", np.uint64)
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
    mail.send("near", "edges", edges, given.bucket_of(edges["first"]))
    return {"candidate_pairs": len(pairs), "verified_pairs": len(edges), "edges": len(edges)}


def mark(given: DuplicatesPass, group: int, mail: Mail) -> TaskCounts:
    """Writes the group's documents that are removed, and those that were kept instead of others, each sorted by id."""
    removed, keepers = np.sort(mail.take("removed", REMOVED), order="id"), np.unique(mail.take("keepers", np.uint64))
    given.work.write_parts(f"removed/{group:06d}", {"removed": removed.tobytes(), "keepers": keepers.tobytes()})
    return {}


@functools.lru_cache(maxsize=2)
def removed_of(given: DuplicatesPass, group: int) -> NDArray[Any]:
    """The removed documents of one group of chunks, sorted by id."""
    return array_of(given.work.read_parts(f"removed/{group:06d}")["removed"], REMOVED)


def keepers_of(given: DuplicatesPass, group: int) -> NDArray[np.uint64]:
    """Ids of the documents of one group of chunks that were kept instead of duplicates, sorted."""
    return array_of(given.work.read_parts(f"removed/{group:06d}")["keepers"], np.uint64)


# Pairs of documents from their keys: edges between exact duplicates, and candidate pairs of near duplicates.
#
# Shapes: R records under the keys of one bucket.

PAIR = np.dtype([("first", "<u8"), ("second", "<u8")])
"""Two documents, the smaller id first."""
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


def _same_as_before(records: NDArray[Any], name: str) -> NDArray[np.bool_]:
    same = np.zeros(len(records), np.bool_)
    same[1:] = records[name][1:] == records[name][:-1]
    return same
