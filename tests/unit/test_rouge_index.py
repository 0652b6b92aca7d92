"""ROUGE-L against many texts: equal to rouge-score's plain computation, for every kind of text."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from rayloom.score.rouge_index import RougeIndex, Similar, longest_common, rouge_words


class _SameWords:
    def tokenize(self, text: str) -> list[str]:
        return rouge_words(text)


PLAIN = RougeScorer(["rougeL"], tokenizer=_SameWords())


def plain(texts: list[str], text: str, threshold: float) -> Similar | None:
    scores = [PLAIN.score(one, text)["rougeL"].fmeasure for one in texts]
    best = max(range(len(texts)), key=scores.__getitem__, default=None)
    if best is None or scores[best] < threshold - 1e-9:
        return None
    return Similar(best, pytest.approx(scores[best]))


def index_of(texts: list[str], threshold: float) -> RougeIndex:
    index = RougeIndex(threshold)
    for text in texts:
        index.add(text)
    return index


SENTENCES = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f", "gg", "hh", "好", "吗"]), max_size=90).map(" ".join)


@given(st.lists(SENTENCES, max_size=12), SENTENCES, st.sampled_from([0.2, 0.5, 0.7, 1.0]))
def test_it_finds_what_comparing_with_each_finds(texts: list[str], text: str, threshold: float) -> None:
    assert index_of(texts, threshold).most_similar(text) == plain(texts, text, threshold)


def test_a_thousand_texts_give_what_comparing_with_each_gives() -> None:
    dice = random.Random(0)
    words = [f"w{int(dice.paretovariate(0.6)) % 500}" for _ in range(20_000)]
    texts = [" ".join(dice.choices(words, k=dice.randrange(4, 30))) for _ in range(1000)]
    index = index_of(texts, 0.7)
    found = 0
    for number in range(60):
        changed = [w if dice.random() < 0.8 else dice.choice(words) for w in texts[number].split()]
        assert index.most_similar(" ".join(changed)) == plain(texts, " ".join(changed), 0.7)
        found += index.most_similar(" ".join(changed)) is not None
    assert 20 < found < 60


def test_words_are_those_of_rouge_in_latin_script_and_characters_without_spaces() -> None:
    assert rouge_words("Don't PANIC, 42 times!") == ["don", "t", "panic", "42", "times"]
    assert rouge_words("你好 world") == ["你", "好", "world"]


def test_a_text_that_grows_the_vocabulary_and_long_ones_are_compared_too() -> None:
    long = [" ".join(f"x{number}" for number in range(first, first + 3000)) for first in (0, 1000, 5000)]
    index = index_of(long, 0.6)
    assert index.most_similar(long[1]) == Similar(1, 1.0)
    assert index.most_similar(" ".join(long[0].split()[500:])) == Similar(0, pytest.approx(2 * 2500 / 5500))
    assert longest_common([1, 2, 3, 4], [2, 9, 4]) == 2
