"""The numbers of a comparison: wins, strengths, scores, and what else moves the judge (order, length)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rayloom.generate.comparing.judging import UNJUDGED
from rayloom.generate.comparing.pairwise import Duel, share_over_prompts, summary
from rayloom.generate.comparing.prompts import AnsweredPrompt


def of_answers(names: Sequence[str], rows: Sequence[AnsweredPrompt]) -> dict[str, Any]:
    """How many answers each model gave, why it gave none, and how long they are on average."""
    found = {}
    for name in names:
        answers = [row.answers[name] for row in rows]
        texts = [answer.text for answer in answers if answer.failed is None]
        found[name] = {
            "answers": len(texts),
            "cut_off": sum(answer.is_cut for answer in answers),
            "mean_characters": round(sum(map(len, texts)) / len(texts), 1) if texts else 0.0,
            "failed": dict(Counter(str(answer.failed)[:80] for answer in answers if answer.failed is not None)),
        }
    return found


def of_judgements(
    names: Sequence[str], rows: Sequence[AnsweredPrompt], judgements: Sequence[dict[str, Any]], duels: Sequence[Duel]
) -> dict[str, Any]:
    """Everything that the judge's verdicts say; see the keys."""
    outcomes = Counter(one["outcome"] for one in judgements)
    num_asked = sum(outcomes.values()) - outcomes["no_answer"] - outcomes["same_answers"]
    num_judged = num_asked - sum(outcomes[name] for name in UNJUDGED)
    return {
        "outcomes": dict(outcomes.most_common()),
        "judged_share": round(num_judged / num_asked, 4) if num_asked else 0.0,
        **summary(names, duels),
        "scores": _scores(names, judgements),
        "position": _position(judgements),
        "longer_wins": longer_wins(duels, {row.number: row for row in rows}),
    }


def _scores(names: Sequence[str], judgements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each model by each criterion."""
    found: dict[str, dict[str, list[tuple[int, int]]]] = {name: {} for name in names}
    for one in judgements:
        if "points" in one:
            found[one["model"]].setdefault(one["criterion"], []).append((one["number"], one["points"]))
    return {
        name: {criterion: share_over_prompts(values) for criterion, values in by_criterion.items()}
        for name, by_criterion in found.items()
        if by_criterion
    }


def _position(judgements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How often the answer that stands first is preferred (a judge without a bias: one half), and how often the same
    answer is preferred in both orders."""
    letters = [(one["number"], one["letters"]) for one in judgements if "letters" in one]
    sides = [(number, letter == "A") for number, both in letters for letter in both if letter in ("A", "B")]
    same = [(number, both[0] != both[1]) for number, both in letters if set(both) <= {"A", "B"}]
    if not sides:
        return {}
    return {"first_place": share_over_prompts(sides), "same_in_both_orders": share_over_prompts(same)}


def longer_wins(duels: Sequence[Duel], rows: dict[int, AnsweredPrompt]) -> dict[str, Any]:
    """How often the longer of two answers is the better one, of pairs with a winner and different lengths."""
    found = []
    for duel in duels:
        one, other = (len(rows[int(str(duel.prompt))].answers[name].text) for name in (duel.first, duel.second))
        if one != other and duel.value != 0.5:
            found.append((duel.prompt, (duel.value > 0.5) == (one > other)))
    return share_over_prompts(found)


def preferences(rows: Sequence[AnsweredPrompt], duels: Sequence[Duel]) -> list[dict[str, Any]]:
    """A row for each pair with a winner, in the form `prompt_chosen_rejected` of training."""
    by_number, found = {row.number: row for row in rows}, []
    for duel in duels:
        if not math.isclose(duel.value, 0.5):
            row = by_number[int(str(duel.prompt))]
            better, worse = (duel.first, duel.second) if duel.value > 0.5 else (duel.second, duel.first)
            texts = {"chosen": row.answers[better].text.strip(), "rejected": row.answers[worse].text.strip()}
            found.append({"prompt": row.row.text, **texts, "chosen_by": better, "rejected_by": worse})
    return found


def headline(metrics: dict[str, Any]) -> str:
    """The result in one line."""
    if metrics.get("ranking"):
        strengths = (f"{one['model']} {one['strength']:+.0f}" for one in metrics["ranking"])
        return f"{', '.join(strengths)} (Elo, of {metrics['num_prompts']:,} prompts)"
    said = []
    for pair in metrics["pairs"]:
        low, high = pair["interval"]
        said.append(f"{pair['first']} wins {pair['wins']:.1%} ({low:.1%} to {high:.1%}) against {pair['second']}")
    return ", ".join(said)
