"""Wins, strengths, agreement and their intervals, beside numbers worked by hand and in the papers."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from rayloom.generate.comparing.pairwise import (
    ELO,
    Duel,
    agreement,
    bradley_terry,
    kappa,
    ranking,
    share_over_prompts,
    summary,
    wilson,
)


def test_wins_count_ties_half_and_prompts_once() -> None:
    found = summary(["a", "b"], [Duel(1, "a", "b", 1.0), Duel(1, "b", "a", 0.0), Duel(2, "a", "b", 0.5)])
    # Prompt 1: two wins of two, prompt 2: a tie; 2.5 of 3.
    assert "ranking" not in found
    (pair,) = found["pairs"]
    assert (pair["wins"], pair["num_prompts"], pair["num_judged"]) == (pytest.approx(2.5 / 3), 2, 3)
    low, high = pair["interval"]
    assert low == 0.5 and high == 1.0


def test_the_interval_is_the_binomials() -> None:
    found = share_over_prompts((number, number < 30) for number in range(100))
    deviation = math.sqrt(0.3 * 0.7 / 100)
    assert found["share"] == 0.3
    assert found["interval"] == [pytest.approx(0.3 - 1.96 * deviation, abs=0.015), pytest.approx(0.39, abs=0.015)]
    # The same judgements, five of each prompt alike, say less: the interval is √5 as wide.
    grouped = share_over_prompts((number // 5, number < 30) for number in range(100))
    widths = [high - low for low, high in (found["interval"], grouped["interval"])]
    assert widths[1] / widths[0] == pytest.approx(math.sqrt(5), rel=0.15)
    assert share_over_prompts([])["share"] is None
    # What always happened, in 20 prompts, is not certain: Wilson's interval.
    assert share_over_prompts((number, 1.0) for number in range(20))["interval"] == [0.8389, 1.0]
    assert share_over_prompts((number, 0.0) for number in range(20))["interval"] == [0.0, 0.1611]


def test_two_models_have_the_log_odds_of_their_wins() -> None:
    strengths = bradley_terry(np.array([[[0.0, 30.0], [10.0, 0.0]]]))
    assert strengths[0] == pytest.approx([math.log(3) / 2, -math.log(3) / 2])


def test_strengths_explain_the_wins_that_they_were_made_of() -> None:
    """At the maximum of the likelihood, each model's expected wins are its wins (Hunter 2004)."""
    wins = np.array([[0, 8, 9, 4], [2, 0, 6, 7], [1, 4, 0, 5], [6, 3, 5, 0]], np.float64)
    (strengths,) = bradley_terry(wins[None])
    chance = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
    assert (chance * (wins + wins.T)).sum(axis=1) == pytest.approx(wins.sum(axis=1), abs=1e-5)


def test_the_ranking_finds_strengths_within_its_intervals() -> None:
    dice, true = random.Random(4), {"weak": -1.0, "middle": 0.0, "strong": 1.0}
    duels = [
        Duel(prompt, one, other, float(dice.random() < 1 / (1 + math.exp(true[other] - true[one]))))
        for prompt in range(300)
        for one, other in (("weak", "middle"), ("strong", "weak"), ("middle", "strong"))
    ]
    found = ranking(list(true), duels)
    assert [one["model"] for one in found] == ["strong", "middle", "weak"]
    for one in found:
        assert one["interval"][0] < ELO * true[one["model"]] < one["interval"][1]


def test_one_that_always_won_is_finite_and_one_that_was_never_compared_stops_the_ranking() -> None:
    always = [Duel(n, "a", other, 1.0) for n in range(20) for other in ("b", "c")]
    found = ranking(["a", "b", "c"], always)
    assert found[0]["model"] == "a" and found[0]["strength"] < 1500
    assert ranking(["a", "b", "c", "d"], always) == []
    assert ranking(["a", "b"], []) == []


def test_kappa_and_wilson_are_those_of_the_papers() -> None:
    # Cohen's own example: 0.50 by chance and 0.70 agreement gives 0.4. Newcombe 1998, table I: 81 of 263.
    choices = [("a", "a")] * 20 + [("a", "b")] * 5 + [("b", "a")] * 10 + [("b", "b")] * 15
    assert kappa(choices) == pytest.approx(0.4)
    assert kappa([("a", "a")] * 3) == 1.0
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert agreement({}) == {}
    by_rater = {"ann": {str(n): one for n, (one, _) in enumerate(choices)}}
    by_rater["bob"] = {str(n): other for n, (_, other) in enumerate(choices)}
    assert agreement(by_rater)["ann and bob"] == {"kappa": pytest.approx(0.4), "same_share": 0.7, "num_items": 50}
