"""Who is better than whom, of judgements of two at a time: shares of wins, Bradley–Terry, agreement, intervals.

Intervals are 95 %. Those of wins and strengths are percentiles of a bootstrap over prompts (Efron 1979), since
judgements of one prompt are not independent of each other. Shapes: M models, R resamples.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayloom.score.class_scores import NUM_RESAMPLES, of_ratio

Z = 1.959964
"""Of the normal distribution, for 95 %."""
ELO = 400 / math.log(10)
"""Points of the Elo scale for one nat: 400 points are odds of 10 to 1."""
NUM_STEPS = 10_000
TOLERANCE = 1e-7


class Duel(NamedTuple):
    """One judgement of two answers to a prompt."""

    prompt: Hashable
    first: str
    second: str
    value: float
    """1: the first is better, 0: the second, 0.5: neither."""


def summary(names: Sequence[str], duels: Sequence[Duel]) -> dict[str, Any]:
    """`pairs`: how often each model wins against each other, a tie counting half; `ranking`: all models by strength.

    There is no ranking of two models, nor where not all of them were compared with each other, if over others.
    """
    pairs = []
    for first, second in itertools.combinations(names, 2):
        values = [(duel.prompt, _turned(duel, first)) for duel in duels if {duel.first, duel.second} == {first, second}]
        if values:
            wins = share_over_prompts(values)
            pairs.append({"first": first, "second": second, "wins": wins["share"]} | _without_share(wins))
    ranked = ranking(names, duels) if len(names) > 2 else []
    return {"pairs": pairs} | ({"ranking": ranked} if ranked else {})


def _turned(duel: Duel, first: str) -> float:
    return duel.value if duel.first == first else 1 - duel.value


def _without_share(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "share"}


def share_over_prompts(values: Iterable[tuple[Hashable, float]]) -> dict[str, Any]:
    """The mean of values, each of a prompt, with its interval and the number of values and prompts."""
    by_prompt: dict[Hashable, list[float]] = {}
    for prompt, value in values:
        by_prompt.setdefault(prompt, []).append(float(value))
    parts = [(sum(of_prompt), float(len(of_prompt))) for of_prompt in by_prompt.values()]
    num = sum(int(count) for _, count in parts)
    if not parts:
        return {"share": None, "interval": None, "num_prompts": 0, "num_judged": 0}
    share = sum(total for total, _ in parts) / num
    interval = of_ratio(parts).as_metrics()
    if share in (0.0, 1.0):
        # No resample of what is always the same differs; Wilson's interval says how little few prompts say.
        interval = [round(bound, 4) for bound in wilson(round(share) * len(parts), len(parts))]
    return {"share": round(share, 6), "interval": interval, "num_prompts": len(parts), "num_judged": num}


# Bradley & Terry 1952: the odds of i against j are exp(strength_i - strength_j).


def ranking(names: Sequence[str], duels: Sequence[Duel]) -> list[dict[str, Any]]:
    """The models by strength, the strongest first, on the Elo scale with mean 0, and their interval.

    One more tie is counted for each two models that were compared, so that one that always won has a finite strength;
    its interval is then too narrow, as all resamples are alike.
    Empty if some models cannot be compared, as nothing connects them.
    """
    prompts = {prompt: row for row, prompt in enumerate(dict.fromkeys(duel.prompt for duel in duels))}
    place = {name: column for column, name in enumerate(names)}
    wins = np.zeros((len(prompts), len(names), len(names)))
    for duel in duels:
        row, first, second = prompts[duel.prompt], place[duel.first], place[duel.second]
        wins[row, first, second] += duel.value
        wins[row, second, first] += 1 - duel.value
    total = wins.sum(axis=0)
    compared = (total + total.T) > 0
    if not _is_connected(compared):
        return []
    random, share = np.random.default_rng(0), np.full(len(prompts), 1 / len(prompts))
    resampled = [np.tensordot(random.multinomial(len(prompts), share), wins, axes=1) for _ in range(NUM_RESAMPLES)]
    strengths = ELO * bradley_terry(np.stack([total, *resampled]) + compared * 0.5)
    low, high = np.quantile(strengths[1:], [0.025, 0.975], axis=0)
    found = [
        {
            "model": name,
            "strength": round(float(strengths[0, column]), 1),
            "interval": [round(float(low[column]), 1), round(float(high[column]), 1)],
        }
        for column, name in enumerate(names)
    ]
    return sorted(found, key=lambda one: -float(one["strength"]))


def bradley_terry(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Strengths in nats with mean 0, (R, M), of wins (R, M, M): [i, j] is how often i won against j.

    By minorisation and maximisation (Hunter 2004, equation 3). Each model must have won and lost.
    """
    num = wins + wins.swapaxes(1, 2)
    won = wins.sum(axis=2)
    log: NDArray[np.float64] = np.zeros(won.shape)
    for _ in range(NUM_STEPS):
        odds = np.exp(log)
        before, log = log, np.log(won) - np.log((num / (odds[:, :, None] + odds[:, None, :])).sum(axis=2))
        log = log - log.mean(axis=1, keepdims=True)
        if float(np.abs(log - before).max(initial=0.0)) < TOLERANCE:
            break
    return log


def _is_connected(compared: NDArray[np.bool_]) -> bool:
    reached = np.zeros(len(compared), np.bool_)
    reached[:1] = True
    for _ in compared:
        reached |= compared[reached].any(axis=0)
    return bool(reached.all()) and len(compared) > 1


# Agreement of two who judged the same, and shares of right ones.


def agreement(choices: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Any]]:
    """Cohen's κ and the share of equal choices of every two who judged the same items. `choices`: by name and item."""
    found = {}
    for one, other in itertools.combinations(sorted(choices), 2):
        both = sorted(choices[one].keys() & choices[other].keys())
        if both:
            pairs = [(choices[one][item], choices[other][item]) for item in both]
            same = sum(first == second for first, second in pairs) / len(pairs)
            found[f"{one} and {other}"] = {"kappa": kappa(pairs), "same_share": same, "num_items": len(both)}
    return found


def kappa(choices: Sequence[tuple[str, str]]) -> float:
    """Cohen's κ (1960); 1 if both always made the one and the same choice."""
    total = len(choices)
    observed = sum(one == other for one, other in choices) / total
    first, second = (Counter(pair[side] for pair in choices) for side in (0, 1))
    expected = sum(first[choice] * second[choice] for choice in first) / (total * total)
    return 1.0 if expected == 1 else (observed - expected) / (1 - expected)


def wilson(right: int, total: int) -> tuple[float, float]:
    """Wilson's interval of a share (1927)."""
    if not total:
        return 0.0, 1.0
    share, scale = right / total, 1 + Z * Z / total
    middle = (share + Z * Z / (2 * total)) / scale
    half = Z * math.sqrt(share * (1 - share) / total + Z * Z / (4 * total * total)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)
