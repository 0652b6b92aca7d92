"""The order of rows: a permutation that any place can be asked of, and mixing by shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayloom.train.loop.sample_order import Source, located, permuted


@given(num_rows=st.integers(1, 3000), seed=st.integers(0, 2**40), epoch=st.integers(0, 50))
def test_an_epoch_holds_every_row_once(num_rows: int, seed: int, epoch: int) -> None:
    rows = permuted(np.arange(num_rows), num_rows, seed, epoch)
    assert np.array_equal(np.sort(rows), np.arange(num_rows))


@given(num_rows=st.integers(2, 10**12), index=st.integers(0, 10**12), seed=st.integers(0, 1000))
def test_a_place_does_not_depend_on_what_else_is_asked(num_rows: int, index: int, seed: int) -> None:
    index %= num_rows
    alone = permuted(np.asarray([index]), num_rows, seed, 3)
    among = permuted(np.asarray([0, index, num_rows - 1]), num_rows, seed, 3)
    assert alone[0] == among[1]
    assert 0 <= alone[0] < num_rows


def test_seeds_epochs_and_sources_give_unrelated_orders() -> None:
    index = np.arange(1000)
    orders = [permuted(index, 1000, *key) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    for one in range(4):
        for other in range(one):
            assert (orders[one] == orders[other]).sum() < 10
    # Neighbours in the order are not neighbours in the data: their distance is that of random pairs, a third of 1000.
    assert np.abs(np.diff(orders[0])).mean() == pytest.approx(1000 / 3, rel=0.1)


def test_one_source_goes_through_its_epochs() -> None:
    sources, rows = located(np.arange(25), [Source(10)], seed=4)
    assert not sources.any()
    for epoch in range(2):
        assert sorted(rows[epoch * 10 : epoch * 10 + 10]) == list(range(10))
    assert rows[:10].tolist() != rows[10:20].tolist()


@given(
    shares=st.lists(st.floats(0.05, 1.0), min_size=2, max_size=4),
    begin=st.integers(0, 10**6),
    seed=st.integers(0, 100),
)
def test_sources_are_mixed_evenly_and_each_in_its_own_order(shares: list[float], begin: int, seed: int) -> None:
    mixed = [Source(7 + 3 * number, share) for number, share in enumerate(shares)]
    chosen, _ = located(np.arange(begin, begin + 600), mixed, seed)
    for number, share in enumerate(shares):
        assert abs((chosen == number).sum() - 600 * share / sum(shares)) < len(shares)
    chosen, rows = located(np.arange(600), mixed, seed)
    for number, source in enumerate(mixed):
        own = rows[chosen == number]
        expected = located(np.arange(len(own)), [Source(source.num_rows)], seed)[1] if number == 0 else None
        assert expected is None or np.array_equal(own, expected)
        first_epoch = own[: source.num_rows]
        assert len(set(first_epoch.tolist())) == len(first_epoch)
