"""Spans and sentinels, against the example of the paper that they come from."""

from __future__ import annotations

import numpy as np
import pytest

from rayloom.score.batches import NO_LABEL
from rayloom.specs.training.objectives import SpanCorruption
from rayloom.text.packed.shards import Row
from rayloom.train.objectives.corruption import Corruption, corrupted, corruption_of
from rayloom.train.objectives.denoising import CorruptedSpans

SENTINELS = np.array([900, 901, 902, 903])
END, START = 1, 0


def test_the_example_of_the_paper() -> None:
    # Raffel et al. 2020, figure 2: Thank you [for inviting] me to your party [last] week .
    tokens = np.arange(10, 21)
    read, written = corrupted(tokens, Corruption(np.array([2, 4, 2]), np.array([2, 1])), SENTINELS, END)
    assert read.tolist() == [10, 11, 900, 14, 15, 16, 17, 901, 19, 20, END]
    assert written.tolist() == [900, 12, 13, 901, 18, END]


@pytest.mark.parametrize(("num_tokens", "replaced", "spans"), [(2, 1, 1), (10, 2, 1), (100, 15, 5), (400, 60, 4)])
def test_lengths_add_up(num_tokens: int, replaced: int, spans: int) -> None:
    # 15 % of 100 is 15 tokens in spans of 3 on average: 5 spans. Of 400 tokens it would be 20, but 4 sentinels exist.
    most = len(SENTINELS) if num_tokens == 400 else 100
    for seed in range(20):
        found = corruption_of(num_tokens, 0.15, 3.0, most, np.random.default_rng(seed))
        assert found.kept.sum() + found.replaced.sum() == num_tokens
        assert (found.replaced.sum(), len(found.replaced)) == (replaced, spans)
        assert len(found.kept) == spans + 1
        assert found.kept[1:-1].min(initial=1) >= 1
        assert found.replaced.min() >= 1


def test_every_place_is_replaced_about_equally_often() -> None:
    counts = np.zeros(40)
    for seed in range(2000):
        found = corruption_of(40, 0.25, 2.0, 100, np.random.default_rng(seed))
        begin = 0
        for kept, replaced in zip(found.kept[:-1], found.replaced, strict=True):
            counts[begin + kept : begin + kept + replaced] += 1
            begin += kept + replaced
    assert counts.mean() / 2000 == 0.25
    assert counts.std() / counts.mean() < 0.15


def test_each_document_of_a_row_has_its_own_sentinels() -> None:
    objective = CorruptedSpans(64, SpanCorruption(type="span"), SENTINELS, END, START)
    tokens = np.arange(10, 31)
    # Documents of 10, 1 and 10 tokens; one token alone predicts nothing and is left out.
    positions = np.array([*range(10), 0, *range(10)])
    batch = objective.batch([Row(tokens, positions != 0, positions)], [(0, 0, 5)])
    written, read = batch.labels[0].tolist(), batch.decoder_tokens[0].tolist()  # type: ignore[index]
    assert [written.count(900), written.count(END), batch.tokens[0].tolist().count(900)] == [2, 2, 2]
    assert 20 not in batch.tokens[0].tolist() + written
    # The decoder reads what it wrote, one place later, and each document begins anew.
    cut = written.index(END) + 1
    assert read == [START, *written[: cut - 1], START, *written[cut:-1]]
    places = batch.decoder_positions[0].tolist()  # type: ignore[index]
    assert places == [*range(cut), *range(len(written) - cut)]
    assert sorted(t for t in batch.tokens[0].tolist() + written if 10 <= t < 31) == [*range(10, 20), *range(21, 31)]
    assert batch.num_tokens == 21


def test_shorter_rows_are_filled_up_without_labels() -> None:
    objective = CorruptedSpans(64, SpanCorruption(type="span"), SENTINELS, END, START)
    rows = [Row(np.arange(10, 10 + n), np.ones(n, np.bool_), np.arange(n)) for n in (30, 4)]
    batch = objective.batch(rows, [(0, 0, 0), (0, 0, 1)])
    width = int((batch.labels[1] != NO_LABEL).sum())
    assert width < batch.labels.shape[1]
    assert (batch.labels[1, width:] == NO_LABEL).all()
    again = objective.batch(rows[1:], [(0, 0, 1)])
    assert again.labels[0].tolist() == batch.labels[1, :width].tolist()
