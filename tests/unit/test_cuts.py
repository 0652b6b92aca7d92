"""Cuts of an ordered set: exact, the same however documents are spread, and equal places stay together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.passes import InProcess

from rayloom.data.exchange.cutoff import (
    EVERYTHING,
    RANKING,
    Ranking,
    cut_in_bucket,
    is_below,
    ranked,
    send_ranked,
    shuffled,
)
from rayloom.data.exchange.mail import Mail


def _ranking(chunks: list[Any], num_strata: int, num_buckets: int) -> Ranking:
    def send(chunk: int, mail: Mail) -> dict[str, Any]:
        send_ranked(mail, chunks[chunk], num_buckets)
        return {}

    passes = InProcess()
    _, sent = passes.exchange("ranking", range(len(chunks)), send, writes={RANKING: num_buckets})
    return Ranking(sent[RANKING], num_strata, num_buckets, passes)


def _expected(order: np.ndarray, weight: np.ndarray, target: int) -> tuple[set[int], int]:
    """Places below the cut and what they weigh, by a loop over whole groups of equal places."""
    taken: set[int] = set()
    total = 0
    for place in np.unique(order):
        mine = int(weight[order == place].sum())
        if total + mine > target:
            break
        taken.add(int(place))
        total += mine
    return taken, total


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2), st.integers(1, 9)), max_size=60),
    st.integers(1, 5),
    st.integers(1, 4),
    st.lists(st.integers(0, 120), min_size=3, max_size=3),
)
def test_cuts_are_exact_whatever_holds_the_documents(
    documents: list[tuple[int, int, int]],
    num_buckets: int,
    num_chunks: int,
    targets: list[int],
) -> None:
    order = np.asarray([place for place, _, _ in documents], np.uint64) * np.uint64((1 << 64) // 41)
    stratum = np.asarray([s for _, s, _ in documents], np.int64)
    weight = np.asarray([w for _, _, w in documents], np.int64)
    records = ranked(order, stratum, weight)
    ranking = _ranking([records[number::num_chunks] for number in range(num_chunks)], 3, num_buckets)
    found = ranking.cuts(ranking.weights(), list(enumerate(targets)))
    for cut, target in zip(found, targets, strict=True):
        mine = stratum == cut.stratum
        places, total = _expected(order[mine], weight[mine], target)
        below = order[mine][is_below(order[mine], cut.below)]
        assert set(below.tolist()) == places and cut.weight == total


def test_several_targets_in_one_stratum() -> None:
    order = np.arange(100, dtype=np.uint64) * np.uint64(1 << 57)
    ranking = _ranking([ranked(order, 0, 1)], 1, 3)
    found = ranking.cuts(ranking.weights(), [(0, 10), (0, 20), (0, 100), (0, 0)])
    assert [cut.weight for cut in found] == [10, 20, 100, 0]
    assert [int(is_below(order, cut.below).sum()) for cut in found] == [10, 20, 100, 0]
    assert found[2].below == EVERYTHING


def test_a_cut_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not fall"):
        cut_in_bucket(ranked(np.arange(3, dtype=np.uint64), 0, 1), 0, 3)


def test_another_seed_gives_another_order() -> None:
    hashes = np.arange(1000, dtype=np.uint64)
    first, again, second = shuffled(hashes, 0), shuffled(hashes, 0), shuffled(hashes, 1)
    assert (first == again).all() and not (first == second).any()
    assert abs(np.corrcoef(first.astype(float), hashes.astype(float))[0, 1]) < 0.1
