"""Exact weighted quantiles over all documents, by stratum: the position below which a stratum has a target weight.

Every document has a stratum (a label, a source), a position in an order (a hash, a score) and a weight (1, its tokens).
Buckets are ranges of the order. First the weight of each stratum in each bucket is summed; then only the buckets in
which a cut falls are sorted. The result depends on the documents only, not on chunks, buckets or order of processing.

Shapes: R records of a bucket, K strata, B buckets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from rayloom.data.exchange.mail import Mail
from rayloom.data.passes import Exchange, Passes
from rayloom.text.text_views import mixed

RANKED = np.dtype([("order", "<u8"), ("stratum", "<u4"), ("weight", "<u4")])
RANKING = "ranking"
EVERYTHING = 1 << 64
"""A cut above every position in the order."""


@dataclass(frozen=True)
class Cut:
    """The documents of a stratum at positions below `below`, whose weights sum to `weight`."""

    stratum: int
    below: int
    weight: int


def send_ranked(mail: Mail, records: NDArray[Any], num_buckets: int) -> None:
    """Sends documents with stratum, position and weight through the exchange `RANKING`."""
    half = records["order"] >> np.uint64(1)  # the range of a single bucket would not fit into 64 bits
    mail.send(RANKING, "ranked", records, half // np.uint64((1 << 63) // num_buckets + 1))


@dataclass(frozen=True)
class Ranking:
    """Documents with stratum, position and weight, in buckets that are ranges of positions."""

    documents: Exchange
    num_strata: int
    num_buckets: int
    passes: Passes

    def weights(self) -> NDArray[np.int64]:
        """(B, K) the weight of each stratum in each bucket."""
        num_strata = self.num_strata

        def weigh(_: int, mail: Mail) -> dict[str, Any]:
            return {"totals": totals(mail.take("ranked", RANKED), num_strata)}

        records, _ = self.passes.exchange("counting", range(self.num_buckets), weigh, reads=[self.documents])
        return np.asarray([record["totals"] for record in records], np.int64).reshape(-1, num_strata)

    def cuts(self, weights: NDArray[np.int64], targets: Sequence[tuple[int, int]]) -> list[Cut]:
        """The cut of each target (stratum, weight)."""
        found, with_cuts = located(weights, targets)

        def look(bucket: int, mail: Mail) -> dict[str, Any]:
            records = mail.take("ranked", RANKED)
            inside = [(number, cut_in_bucket(records, stratum, rest)) for number, stratum, rest in with_cuts[bucket]]
            return {"cuts": [[number, cut.below, cut.weight] for number, cut in inside]}

        looked, _ = self.passes.exchange("cutting", sorted(with_cuts), look, reads=[self.documents])
        for record, (_, targets_there) in zip(looked, sorted(with_cuts.items()), strict=True):
            rests = {number: rest for number, _, rest in targets_there}
            for number, below, weight in record["cuts"]:
                stratum, target = targets[number]
                found[number] = Cut(stratum, below, target - rests[number] + weight)
        return [cut for cut in found if cut is not None]


def ranked(order: NDArray[np.uint64], stratum: Any, weight: Any) -> NDArray[Any]:
    """(R,) records from arrays or single values."""
    records = np.zeros(len(order), RANKED)
    records["order"], records["stratum"], records["weight"] = order, stratum, weight
    return records


def totals(records: NDArray[Any], num_strata: int) -> list[int]:
    """(K,) the weight of each stratum in a bucket."""
    sums = np.zeros(num_strata, np.int64)
    np.add.at(sums, records["stratum"], records["weight"])
    return [int(value) for value in sums]


def cut_in_bucket(records: NDArray[Any], stratum: int, target: int) -> Cut:
    """The highest cut in a bucket below which the stratum weighs at most `target`. Documents at equal positions, such
    as identical ones, are on the same side."""
    mine = np.sort(records[records["stratum"] == stratum], order="order")
    weights = np.cumsum(mine["weight"], dtype=np.int64)
    ends = np.append(mine["order"][1:] != mine["order"][:-1], True)[: len(mine)]
    fitting = np.flatnonzero(ends & (weights <= target))
    last = int(fitting[-1]) if len(fitting) else -1
    if last + 1 == len(mine):
        raise ValueError("the cut does not fall in this bucket")
    return Cut(stratum, int(mine["order"][last + 1]), int(weights[last]) if last >= 0 else 0)


BucketsWithCuts = Mapping[int, list[tuple[int, int, int]]]
"""For each bucket in which cuts fall: the target's index, its stratum, and its weight left for this bucket."""


def located(weights: NDArray[np.int64], targets: Sequence[tuple[int, int]]) -> tuple[list[Cut | None], BucketsWithCuts]:
    """The cut of each target (stratum, weight), or None if it lies inside a bucket; and the buckets with such cuts.

    `weights`: (B, K). If the stratum weighs no more than the target, the cut is above all its documents.
    """
    found: list[Cut | None] = []
    with_cuts: dict[int, list[tuple[int, int, int]]] = {}
    for number, (stratum, target) in enumerate(targets):
        sums = np.cumsum(weights[:, stratum])
        if not len(sums) or sums[-1] <= target:
            found.append(Cut(stratum, EVERYTHING, int(sums[-1]) if len(sums) else 0))
            continue
        bucket = int(np.searchsorted(sums, target, side="right"))
        before = int(sums[bucket - 1]) if bucket else 0
        found.append(None)
        with_cuts.setdefault(bucket, []).append((number, stratum, target - before))
    return found, with_cuts


def shuffled(hashes: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A pseudo-random order of documents that depends on the seed and is independent of the order of `hashes`."""
    salt = np.frombuffer(xxhash.xxh3_64_digest(f"sampling {seed}".encode()), "<u8")
    return mixed(hashes ^ salt)


def is_below(order: NDArray[np.uint64], below: int) -> NDArray[np.bool_]:
    """Whether each position lies below a cut."""
    if below >= EVERYTHING:
        return np.ones(len(order), np.bool_)
    result: NDArray[np.bool_] = order < np.uint64(below)
    return result
