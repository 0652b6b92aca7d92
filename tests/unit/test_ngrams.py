"""Baselines worked out by hand on a vocabulary of three tokens."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from rayloom.errors import InputError
from rayloom.score.ngrams import ngram_perplexities
from rayloom.text.packed.shards import ShardWriter, TokenShards


def _shards(folder: Path, documents: list[list[int]], length: int, vocabulary_size: int = 3) -> TokenShards:
    writer = ShardWriter(folder, vocabulary_size, "digest")
    for document in documents:
        writer.add(document)
    writer.close()
    return TokenShards(folder, length)


def test_worked_by_hand(tmp_path: Path) -> None:
    # Training: 0 1 0 1 0 2 in one document. Counts: 0 three times, 1 twice, 2 once.
    # Followers of 0: 1 twice, 2 once (t = 2, c = 3); of 1: 0 twice (t = 1, c = 2); of 2: none.
    train = _shards(tmp_path / "train", [[0, 1, 0, 1, 0, 2]], 6)
    heldout = _shards(tmp_path / "heldout", [[0, 1, 2, 0]], 4)
    found = ngram_perplexities(train, heldout)
    # Labels: 1 after 0, 2 after 1, 0 after 2.
    one, two, zero = 3 / 9, 2 / 9, 4 / 9
    bigram = [(2 + 2 * one) / 5, (0 + 1 * two) / 3, zero]
    assert found.num_labels == 3
    assert found.unigram == pytest.approx((one * two * zero) ** (-1 / 3))
    assert found.bigram == pytest.approx(math.prod(bigram) ** (-1 / 3))


def test_probabilities_of_every_context_sum_to_one(tmp_path: Path) -> None:
    train = _shards(tmp_path / "train", [[0, 1, 0, 1, 0, 2]], 6)
    for context in range(3):
        total = 0.0
        for token in range(3):
            heldout = _shards(tmp_path / f"{context}{token}", [[context, token]], 2)
            total += 1 / ngram_perplexities(train, heldout).bigram
        assert total == pytest.approx(1.0)


def test_no_pair_crosses_documents_or_rows(tmp_path: Path) -> None:
    train = _shards(tmp_path / "train", [[0, 1], [0, 1], [0, 1]], 2)
    # 1 never precedes 0 inside a document, so after 1 the unigram speaks: (3 + 1) / (6 + 3).
    heldout = _shards(tmp_path / "heldout", [[1, 0]], 2)
    assert ngram_perplexities(train, heldout).bigram == pytest.approx(9 / 4)
    # Of two documents of two tokens, two tokens are labels: the first of each is predicted by nothing.
    assert ngram_perplexities(train, _shards(tmp_path / "two", [[0, 1], [0, 1]], 4)).num_labels == 2


def test_other_vocabularies_and_no_labels_are_errors(tmp_path: Path) -> None:
    train = _shards(tmp_path / "train", [[0, 1]], 2)
    with pytest.raises(InputError, match="3 tokens, held-out text 5"):
        ngram_perplexities(train, _shards(tmp_path / "other", [[0, 1]], 2, vocabulary_size=5))
    with pytest.raises(InputError, match="no label"):
        ngram_perplexities(train, _shards(tmp_path / "short", [[0, 1]], 4))


def test_of_a_large_corpus_a_sample_is_counted_and_its_error_stated(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    chain = random.dirichlet(np.full(50, 0.2), size=50)
    tokens = [0]
    for _ in range(30_000):
        tokens.append(int(random.choice(50, p=chain[tokens[-1]])))
    train = _shards(tmp_path / "train", [tokens[:28_000]], 20, vocabulary_size=50)
    heldout = _shards(tmp_path / "heldout", [tokens[28_000:]], 20, vocabulary_size=50)
    whole = ngram_perplexities(train, heldout)
    assert (whole.bigram_at_least, whole.num_counted_tokens) == (whole.bigram, 28_000)
    sampled = ngram_perplexities(train, heldout, most_tokens=2_000)
    assert sampled.num_counted_tokens == 2_000
    assert sampled.bigram_at_least < whole.bigram < sampled.bigram
    assert sampled.unigram == pytest.approx(whole.unigram, rel=0.05)
