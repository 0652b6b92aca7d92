"""The result of a rating: every judgement, who wins how often with intervals, agreement, and pairs to train on.

Intervals are percentiles of a bootstrap over items (Efron 1979). Agreement of two raters is Cohen's κ (1960) over the
items that both judged. Precision of a rule has Wilson's interval (1927).
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from rayloom.artifacts.build import Build
from rayloom.artifacts.durable import write_durably
from rayloom.artifacts.manifest import Outcome
from rayloom.specs.base import JobSpec
from rayloom.ui.rating.items import RatedItem
from rayloom.ui.rating.journal import RaterJudgement

STAGE_VERSION = 1
NUM_BOOTSTRAPS = 1_000
Z = 1.96
"""Of the normal distribution, for 95 %."""


class RatingSpec(JobSpec):
    """What was rated, and how; part of the artifact."""

    kind: Literal["rate"] = "rate"
    artifacts: tuple[str, ...]
    file: str
    seed: int
    each: int
    judgements_digest: str
    """SHA-256 of the judgements, so that more of them make another result."""


def publish(
    items: Sequence[RatedItem], judgements: Sequence[RaterJudgement], spec: RatingSpec, build: Build
) -> Outcome:
    """Writes the files of the artifact."""
    names = spec.artifacts
    known = {item.id: item for item in items}
    judged = [one for one in judgements if one.item in known]
    lines = [asdict(one) | {"meant": one.meant, "prompt": known[one.item].prompt} for one in judged]
    write_durably(build.directory / "judgements.jsonl", _lines(lines))
    if len(names) == 2:
        pairs = _preferences(known, judged)
        write_durably(build.directory / "pairs.jsonl", _lines(pairs))
        metrics = summary_of_pairs(judged) | {"num_pairs_to_train_on": len(pairs)}
        share, (low, high) = metrics["first_wins"], metrics["first_wins_interval"]
        headline = f"{names[0]} wins {share:.1%} ({low:.1%} to {high:.1%}) of {metrics['num_items']} against {names[1]}"
    else:
        metrics = summary_of_rows(known, judged)
        headline = f"{metrics['right_share']:.1%} of {metrics['num_judged']} rows right"
    metrics["agreement"] = agreement(judged)
    return Outcome("dataset", metrics=metrics, headline=headline)


def summary_of_pairs(judged: Sequence[RaterJudgement]) -> dict[str, Any]:
    """How often the first wins, a tie counting half, with an interval."""
    by_item: dict[str, list[float]] = {}
    for one in judged:
        by_item.setdefault(one.item, []).append({"first": 1.0, "second": 0.0}.get(one.meant, 0.5))
    scores = [sum(values) / len(values) for values in by_item.values()]
    made, means = random.Random(0), list[float]()
    for _ in range(NUM_BOOTSTRAPS if scores else 0):
        means.append(sum(made.choices(scores, k=len(scores))) / len(scores))
    means.sort()
    interval = [means[int(0.025 * len(means))], means[int(0.975 * len(means))]] if means else [0.0, 1.0]
    return {
        "first_wins": sum(scores) / len(scores) if scores else 0.5,
        "first_wins_interval": interval,
        "choices": dict(Counter(one.meant for one in judged)),
        "left_share": _share(sum(one.choice == "left" for one in judged), len(judged)),
        "num_items": len(by_item),
        "num_judgements": len(judged),
    }


def summary_of_rows(known: dict[str, RatedItem], judged: Sequence[RaterJudgement]) -> dict[str, Any]:
    """The share of right rows, and of each reason its precision with an interval; unsure ones do not count."""
    clear = [one for one in judged if one.choice in ("right", "wrong")]
    reasons = dict.fromkeys(known[one.item].reason for one in clear)
    return {
        "right_share": _share(sum(one.choice == "right" for one in clear), len(clear)),
        "num_judged": len(judged),
        "num_unsure": len(judged) - len(clear),
        "precision": {reason or "all": _precision(known, clear, reason) for reason in reasons},
    }


def _precision(known: dict[str, RatedItem], clear: Sequence[RaterJudgement], reason: str) -> dict[str, Any]:
    of_reason = [one for one in clear if known[one.item].reason == reason]
    right, total = sum(one.choice == "right" for one in of_reason), len(of_reason)
    low, high = wilson(right, total)
    return {"precision": right / total, "low": low, "high": high, "num_judged": total}


def wilson(right: int, total: int) -> tuple[float, float]:
    """Wilson's interval of a share, 95 %."""
    if not total:
        return 0.0, 1.0
    share, scale = right / total, 1 + Z * Z / total
    middle = (share + Z * Z / (2 * total)) / scale
    half = Z * math.sqrt(share * (1 - share) / total + Z * Z / (4 * total * total)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def agreement(judged: Sequence[RaterJudgement]) -> dict[str, Any]:
    """Cohen's κ of every two raters who judged the same items."""
    by_rater: dict[str, dict[str, str]] = {}
    for judgement in judged:
        by_rater.setdefault(judgement.rater, {})[judgement.item] = judgement.meant
    found = {}
    for one, other in itertools.combinations(sorted(by_rater), 2):
        both = sorted(by_rater[one].keys() & by_rater[other].keys())
        if both:
            choices = [(by_rater[one][item], by_rater[other][item]) for item in both]
            found[f"{one} and {other}"] = {"kappa": kappa(choices), "num_items": len(both)}
    return found


def kappa(choices: Sequence[tuple[str, str]]) -> float:
    """Cohen's κ; 1 if both always made the one and the same choice."""
    total = len(choices)
    observed = sum(one == other for one, other in choices) / total
    first, second = (Counter(pair[side] for pair in choices) for side in (0, 1))
    expected = sum(first[choice] * second[choice] for choice in first) / (total * total)
    return 1.0 if expected == 1 else (observed - expected) / (1 - expected)


def _preferences(known: dict[str, RatedItem], judged: Sequence[RaterJudgement]) -> list[dict[str, Any]]:
    """A row for each item with a majority, in the form `prompt_chosen_rejected` of training."""
    votes: dict[str, Counter[str]] = {}
    for one in judged:
        votes.setdefault(one.item, Counter())[one.meant] += 1
    rows = []
    for id_, count in votes.items():
        margin, item = count["first"] - count["second"], known[id_]
        if margin:
            chosen, rejected = item.answers if margin > 0 else item.answers[::-1]
            rows.append({"prompt": item.prompt, "chosen": chosen, "rejected": rejected})
    return rows


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
