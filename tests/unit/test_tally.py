"""Counts of a task's answers against the usual packages and hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score
from sklearn.metrics import f1_score as sklearn_f1

from rayloom.score.batches import NO_LABEL
from rayloom.score.tally import AnswerTally, tally_of


def test_one_label_is_counted_as_accuracy_and_what_is_not_asked_not_at_all() -> None:
    logits = torch.eye(3)[torch.tensor([0, 1, 2, 2])]
    found = tally_of(logits, torch.tensor([0, 1, 0, NO_LABEL]), "label")
    assert (found.hits, found.score) == (2, pytest.approx(2 / 3))


def test_several_labels_are_counted_as_micro_f1_and_add_up_over_batches() -> None:
    random = np.random.default_rng(0)
    logits, targets = random.normal(size=(40, 4)), random.integers(0, 2, (40, 4))
    parts = [
        tally_of(torch.from_numpy(logits[rows]), torch.from_numpy(targets[rows]), "labels")
        for rows in (slice(0, 7), slice(7, 40))
    ]
    assert sum(parts, AnswerTally()).score == pytest.approx(sklearn_f1(targets, logits > 0, average="micro"))


def test_tags_are_counted_as_entities() -> None:
    random = np.random.default_rng(1)
    names = ["O", "B-a", "I-a", "B-b", "I-b"]
    want, got = random.integers(0, 5, (30, 12)), random.integers(0, 5, (30, 12))
    expected = f1_score([[names[t] for t in row[1:-1]] for row in want], [[names[t] for t in row[1:-1]] for row in got])
    targets = torch.from_numpy(want).clone()
    targets[:, [0, -1]] = NO_LABEL
    assert tally_of(torch.eye(5)[torch.from_numpy(got)], targets, "tags").score == pytest.approx(expected)


def test_answers_are_counted_by_the_tokens_that_they_share() -> None:
    ends = torch.tensor([[3, 5], [0, 0], [6, 4], [1, 1], [2, 2]])
    targets = torch.tensor([[4, 5], [0, 0], [4, 6], [2, 3], [NO_LABEL, NO_LABEL]])
    logits = torch.nn.functional.one_hot(ends, 8).float()
    found = tally_of(logits, targets, "answer")
    assert found.score == pytest.approx((2 * 2 / 5 + 1 + 0 + 0) / 4)
    assert found.hits == 3
