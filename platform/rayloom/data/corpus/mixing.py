"""Token quotas of the sources of a corpus, from weights, caps on sources and domains, and a token budget.

A source with n tokens, weight w and cap c gives min(n, c, λ·w·n) tokens, with one λ for all sources (water filling). A
domain with maximum share r gets at most r·T of the total T. T is the largest solution of
T = Σ_domains min(tokens of the domain, r·T) that does not exceed the budget.

Documents are taken whole, so a source ends slightly below its quota, and a domain that fills its share of the quotas
can exceed its share of the tokens taken. `settled` therefore recomputes the quotas from the tokens taken until every
share holds. Quotas only decrease, so this ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rayloom.specs.cleaning.output import Mixture

_HALVINGS = 80
"""Bisection steps for λ: enough for an error below one token of 2^64."""


@dataclass(frozen=True)
class Supply:
    """The tokens, weight and domain of a source."""

    domain: str
    num_tokens: int
    weight: float
    most_tokens: int
    """The smaller of its tokens and its cap."""


def quotas(supplies: Sequence[Supply], mixture: Mixture) -> list[int]:
    """Tokens to take from each source, in order."""
    shares = mixture.max_domain_share
    total = _largest_total(supplies, shares, mixture.total_tokens)
    limits = {domain: int(share * total) for domain, share in shares.items()}
    heaviest = max(supply.weight for supply in supplies)
    if mixture.total_tokens is None and not limits:
        return _taken(supplies, limits, 1 / heaviest)
    low, high = 0.0, max((s.most_tokens / (s.weight * s.num_tokens) for s in supplies if s.num_tokens), default=0.0)
    if mixture.total_tokens is None:
        high = min(high, 1 / heaviest)
    if sum(_taken(supplies, limits, high)) <= total:
        return _taken(supplies, limits, high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(_taken(supplies, limits, middle)) <= total else (low, middle)
    return _taken(supplies, limits, low)


def _largest_total(supplies: Sequence[Supply], shares: Mapping[str, float], budget: int | None) -> int:
    has: dict[str, int] = {}
    for supply in supplies:
        has[supply.domain] = has.get(supply.domain, 0) + supply.most_tokens
    low, high = 0, sum(has.values()) if budget is None else min(budget, sum(has.values()))
    while low < high:
        total = (low + high + 1) // 2
        fills = sum(min(tokens, int(shares[d] * total)) if d in shares else tokens for d, tokens in has.items())
        low, high = (total, high) if fills >= total else (low, total - 1)
    return low


def _taken(supplies: Sequence[Supply], limits: Mapping[str, int], level: float) -> list[int]:
    """Tokens from each source at λ = level; a domain that would exceed its limit gets a lower λ of its own."""
    given = [_given(supply, level) for supply in supplies]
    for domain, limit in limits.items():
        mine = [index for index, supply in enumerate(supplies) if supply.domain == domain]
        if sum(given[index] for index in mine) <= limit:
            continue
        low, high = 0.0, level
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            is_low = sum(_given(supplies[index], middle) for index in mine) <= limit
            low, high = (middle, high) if is_low else (low, middle)
        for index in mine:
            given[index] = _given(supplies[index], low)
    return given


def _given(supply: Supply, level: float) -> int:
    # A millionth of a token more, so that 1/49 · 49 takes the whole.
    return min(supply.most_tokens, int(level * supply.weight * supply.num_tokens + 1e-6))


def settled(
    supplies: Sequence[Supply], mixture: Mixture, take: Callable[[list[int]], list[int]]
) -> tuple[list[int], list[int]]:
    """Quotas for which the tokens that `take` takes keep every domain within its share, and the result of `take`."""
    budgets = quotas(supplies, mixture)
    taken = take(budgets)
    while not _shares_hold(supplies, mixture.max_domain_share, taken):
        supplies = [
            Supply(supply.domain, supply.num_tokens, supply.weight, tokens)
            for supply, tokens in zip(supplies, taken, strict=True)
        ]
        budgets = [min(before, now) for before, now in zip(taken, quotas(supplies, mixture), strict=True)]
        taken = take(budgets)
    return budgets, taken


def _shares_hold(supplies: Sequence[Supply], shares: Mapping[str, float], taken: Sequence[int]) -> bool:
    total = sum(taken)
    mine = dict.fromkeys(shares, 0)
    for supply, tokens in zip(supplies, taken, strict=True):
        if supply.domain in mine:
            mine[supply.domain] += tokens
    return all(tokens <= shares[domain] * total for domain, tokens in mine.items())
