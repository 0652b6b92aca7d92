"""What is hidden from an encoder, against examples worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rayloom.score.batches import NO_LABEL
from rayloom.train.objectives.corruption import Vocabulary, begins_word, masked_row

MASK, SPECIAL = 99, 0


def vocabulary(begins: np.ndarray | None = None) -> Vocabulary:
    is_special = np.zeros(100, np.bool_)
    is_special[[SPECIAL, MASK]] = True
    return Vocabulary(MASK, is_special, begins)


class Scripted(np.random.Generator):
    """Draws what a test wrote down: the order of candidates, each one's fate, and what is put in."""

    def __init__(self, order: list[int], fates: list[float], put_in: list[int]) -> None:
        super().__init__(np.random.PCG64(0))
        self.order, self.fates, self.put_in = order, fates, put_in

    def permutation(self, x, axis=0):  # type: ignore[no-untyped-def]
        assert sorted(x) == sorted(self.order)
        return np.array(self.order)

    def random(self, size=None, dtype=None, out=None):  # type: ignore[no-untyped-def]
        assert size == len(self.fates)
        return np.array(self.fates)

    def choice(self, a, size=None, **_):  # type: ignore[no-untyped-def]
        assert size == len(self.put_in)
        assert not {SPECIAL, MASK} & set(a)
        return np.array(self.put_in)


def test_eighty_ten_ten_by_hand() -> None:
    # Ten tokens, one of them special: nine candidates, a third of them is three. The order puts places 7, 2 and 4
    # first; their fates are mask (below 0.8), another token (below 0.9), and staying.
    tokens = np.array([11, 12, 13, SPECIAL, 15, 16, 17, 18, 19, 20])
    random = Scripted([7, 2, 4, 0, 1, 5, 6, 8, 9], [0.79, 0.85, 0.95], [42])
    read, labels = masked_row(tokens, np.arange(10), 1 / 3, vocabulary(), random)
    assert read.tolist() == [11, 12, 42, SPECIAL, 15, 16, 17, MASK, 19, 20]
    assert labels.tolist() == [-100, -100, 13, -100, 15, -100, -100, 18, -100, -100]


def test_whole_words_by_hand() -> None:
    # Pieces 20 and above continue a word: words are {0}, {1, 2}, {3}, {4, 5, 6}, {7}; place 4 begins a document, so
    # it begins a word although its piece continues one. Two of eight are wanted: word 4 comes first and has three.
    tokens = np.array([10, 11, 21, 12, 22, 23, 24, 13])
    positions = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    begins = np.arange(100) < 20
    random = Scripted([4, 1, 2, 3, 5], [0.1, 0.2, 0.3], [])
    read, labels = masked_row(tokens, positions, 0.25, vocabulary(begins), random)
    assert read.tolist() == [10, 11, 21, 12, MASK, MASK, MASK, 13]
    assert labels.tolist() == [-100, -100, -100, -100, 22, 23, 24, -100]


@pytest.mark.parametrize("whole_words", [False, True])
def test_shares_over_many_rows(whole_words: bool) -> None:
    random = np.random.default_rng(1)
    begins = np.arange(100) % 3 != 0 if whole_words else None
    tokens = random.integers(1, 99, 400 * 100).reshape(400, 100)
    rows = [masked_row(row, np.arange(100), 0.15, vocabulary(begins), random) for row in tokens]
    read, labels = (np.stack(part) for part in zip(*rows, strict=True))
    chosen = labels != NO_LABEL
    assert chosen.mean() == pytest.approx(0.15, abs=0.01)
    assert (labels[chosen] == tokens[chosen]).all()
    assert (read[~chosen] == tokens[~chosen]).all()
    assert (read[chosen] == MASK).mean() == pytest.approx(0.8, abs=0.02)
    assert (read[chosen] == tokens[chosen]).mean() == pytest.approx(0.1, abs=0.02)
    if begins is not None:
        inside = ~begins[tokens[:, 1:]]
        assert (chosen[:, 1:] == chosen[:, :-1])[inside].all()


def test_a_row_of_special_tokens_has_no_label() -> None:
    read, labels = masked_row(np.zeros(4, np.int64), np.arange(4), 0.15, vocabulary(), np.random.default_rng(0))
    assert read.tolist() == [0, 0, 0, 0]
    assert set(labels) == {NO_LABEL}


def test_which_pieces_begin_a_word() -> None:
    assert begins_word(["play", "##ing", "##", ","]).tolist() == [True, False, True, True]
    assert begins_word(["Ġthe", "ing", ",", "'t", "7", "▁so", "Ċ"]).tolist() == [True, False] + [True] * 5
