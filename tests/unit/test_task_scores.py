"""Scores of labels, entities and answers against hand-worked numbers and the usual packages; their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from seqeval.metrics import f1_score
from sklearn.metrics import f1_score as sklearn_f1

from rayloom.evaluate.checks.linear import text_labels, word_tags
from rayloom.score.class_scores import confusion, of_difference, of_ratio, ratio, scores
from rayloom.score.text_scores import exact_match, sentence_chrf, text_scores, word_f1
from rayloom.text.labelled.examples import spans_of_tokens


def test_scores_of_one_label_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    want, got = ([str(label) for label in random.choice(["a", "b", "c"], 200)] for _ in range(2))
    found = scores([{label} for label in want], [{label} for label in got], ["a", "b", "c", "never"])
    assert found.accuracy == found.micro_f1 == pytest.approx(np.mean([w == g for w, g in zip(want, got, strict=True)]))
    assert found.macro_f1 == pytest.approx(sklearn_f1(want, got, average="macro"))
    assert found.by_class["never"].f1 == 0.0
    matrix = confusion(want, got, ["a", "b", "c"])
    assert sum(map(sum, matrix)) == 200
    assert matrix[0][0] == found.by_class["a"].right


def test_scores_of_entities_are_those_of_seqeval() -> None:
    random = np.random.default_rng(1)
    tags = ["O", "B-a", "I-a", "B-b", "I-b"]
    want, got = ([[str(tag) for tag in random.choice(tags, 12)] for _ in range(50)] for _ in range(2))
    offsets = [(place, place + 1) for place in range(12)]
    sets = [
        [{(s.start, s.end, s.label) for s in spans_of_tokens(offsets, row)} for row in rows] for rows in (want, got)
    ]
    found = scores(*sets, ["a", "b"])
    assert found.micro_f1 == pytest.approx(f1_score(want, got))
    assert found.macro_f1 == pytest.approx(f1_score(want, got, average="macro"))


def test_answers_are_compared_by_their_words() -> None:
    assert exact_match(["The Eiffel Tower"], "eiffel tower.") == 1.0
    assert word_f1(["in the old town of Rome"], "Rome, old") == pytest.approx(2 * 2 / (5 + 2))
    assert word_f1(["北京市"], "北京") == pytest.approx(2 * 2 / (3 + 2))
    assert (exact_match([], ""), exact_match([], "x"), word_f1(["x"], "")) == (1.0, 0.0, 0.0)


def test_written_texts_are_compared_by_characters_and_words() -> None:
    want = ["the cat sat on the mat", "天气很好"]
    assert sentence_chrf(want, want) == [1.0, 1.0]
    assert text_scores(want[:1], want[:1]) == dict.fromkeys(("chrf", "bleu", "rouge1", "rouge2", "rouge_l"), 1.0)
    half = text_scores(["one two three four"], ["one two five six"])
    assert half["rouge1"] == half["rouge_l"] == 0.5
    assert half["rouge2"] == pytest.approx(1 / 3, abs=1e-6)
    assert 0 < sentence_chrf(["天气很好"], ["天气不好"])[0] < 1


def test_an_interval_holds_the_score_and_narrows_with_rows() -> None:
    few, many = [(1.0, 1.0), (0.0, 1.0)] * 20, [(1.0, 1.0), (0.0, 1.0)] * 500
    narrow, wide = of_ratio(many), of_ratio(few)
    assert wide.low < narrow.low < ratio(many) == 0.5 < narrow.high < wide.high
    # 1.96 · √(0.25 / 1000)
    assert narrow.high - 0.5 == pytest.approx(0.031, abs=0.005)
    same = of_difference(many, many)
    assert (same.low, same.high) == (0.0, 0.0)


def test_linear_models_learn_what_words_decide() -> None:
    texts = [f"{word} number {n % 7}" for n in range(40) for word in ("fine", "dull")]
    labels = ["yes", "no"] * 40
    assert text_labels(texts, labels, ["fine number 3", "dull number 9"]) == ["yes", "no"]
    assert text_labels(["好看"] * 5 + ["难看"] * 5, ["yes"] * 5 + ["no"] * 5, ["真好看"]) == ["yes"]
    sentences = [["Mr", "Smith", "left"], ["we", "left", "early"]] * 10
    tags = [["O", "B-person", "O"], ["O", "O", "O"]] * 10
    assert word_tags(sentences, tags, [["Mr", "Smith", "left"], []]) == [["O", "B-person", "O"], []]
