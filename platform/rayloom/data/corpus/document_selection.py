"""Selection of tokenised documents: the token quota of each source, at which its documents are cut in order of hash."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.data.corpus.tokenize_pass import SPLITS, TOKENISED, TokenisingPass, count
from rayloom.data.exchange.cutoff import RANKING, Cut, Ranking, is_below, ranked, send_ranked, shuffled
from rayloom.data.exchange.judged_documents import as_lines
from rayloom.data.exchange.mail import Mail
from rayloom.data.exchange.work_files import array_of
from rayloom.data.kept_documents import origin_of
from rayloom.data.passes import Passes, TaskCounts
from rayloom.specs.clean import CleanSpec
from rayloom.specs.cleaning.output import Mixture, TokensOutput

REASON = "not_sampled"


def is_wanted(spec: CleanSpec) -> bool:
    """Whether the spec can take less than all documents: unequal weights, or a limit on tokens."""
    assert isinstance(spec.output, TokensOutput)
    mixture = spec.output.mixture
    weights = {source.weight for source in spec.sources}
    capped = any(source.max_tokens is not None for source in spec.sources)
    return capped or len(weights) > 1 or mixture.total_tokens is not None or bool(mixture.max_domain_share)


@dataclass(frozen=True)
class SelectingPass:
    """Inputs of every task of the pass."""

    tokens: TokenisingPass
    num_buckets: int
    dtype: Any
    """Of the token ids."""

    def source_of(self, chunk: int) -> int:
        judged = self.tokens.judged
        return judged.files[judged.chunks.file(chunk)].source

    def order(self, documents: NDArray[Any]) -> NDArray[np.uint64]:
        return shuffled(documents["hash"], self.tokens.output.mixture.seed)


def rank(given: SelectingPass, chunk: int, mail: Mail) -> TaskCounts:
    """Sends the hash and token count of each of the chunk's documents to the exchange."""
    parts = given.tokens.work.read_parts(f"tokens/{given.tokens.name(chunk)}")
    documents = np.concatenate([array_of(parts[f"{split}.documents"], TOKENISED) for split in SPLITS])
    records = ranked(given.order(documents), given.source_of(chunk), documents["tokens"])
    send_ranked(mail, records, given.num_buckets)
    return {}


def source_cuts(given: SelectingPass, passes: Passes) -> list[Cut]:
    """The cut of each source, in order of the sources."""
    spec = given.tokens.spec
    work = functools.partial(rank, given)
    documents = given.tokens.judged.exchanged(passes, "ranking", work, RANKING, given.num_buckets)
    ranking = Ranking(documents, len(spec.sources), given.num_buckets, passes)
    weights = ranking.weights()
    cuts: list[Cut] = []

    def take(quotas: list[int]) -> list[int]:
        cuts[:] = ranking.cuts(weights, list(enumerate(quotas)))
        return [cut.weight for cut in cuts]

    totals = [int(value) for value in weights.sum(axis=0)]
    supplies = [
        Supply(source.domain, tokens, source.weight, min(tokens, source.max_tokens or tokens))
        for source, tokens in zip(spec.sources, totals, strict=True)
    ]
    settled(supplies, given.tokens.output.mixture, take)
    return cuts


def select(given: SelectingPass, below: list[int], chunk: int) -> dict[str, Any]:
    """Writes those of the chunk's documents that lie below its source's cut; returns counts like `tokenise`."""
    tokens, name = given.tokens, given.tokens.name(chunk)
    parts = tokens.work.read_parts(f"tokens/{name}")
    files: dict[str, bytes] = {}
    num_tokens = []
    source = given.source_of(chunk)
    counts: Counter[str] = Counter()
    rejects: list[dict[str, Any]] = []
    for split in SPLITS:
        documents = array_of(parts[f"{split}.documents"], TOKENISED)
        taken = is_below(given.order(documents), below[source])
        content = array_of(parts[f"{split}.tokens"], given.dtype)[np.repeat(taken, documents["tokens"])]
        mine = documents[taken]
        files[f"{split}.tokens"] = content.tobytes()
        files[f"{split}.sizes"] = mine["tokens"].astype(np.int64).tobytes()
        num_tokens.append(len(content))
        where = f"{tokens.spec.sources[source].name}/{split}"
        count(counts, where, len(mine), int(mine["tokens"].sum()), int(mine["bytes"].sum()))
        rejects += [
            origin_of(tokens.judged, int(row["id"])) | {"reason": REASON, "tokens": int(row["tokens"])}
            for row in documents[~taken]
        ]
    files["rejects"] = as_lines(sorted(rejects, key=lambda row: (row["row"], row.get("piece", 0))))
    tokens.work.write_parts(f"selected/{name}", files)
    source_name = tokens.spec.sources[source].name
    record = {"counts": dict(counts), "dropped": {f"{source_name}/{REASON}": len(rejects)} if rejects else {}}
    record |= {"documents": {split: counts[f"{source_name}/{split}/documents"] for split in SPLITS}}
    return record | {"rejects_bytes": len(files["rejects"]), "chunks": [num_tokens]}


# Token quotas of the sources of a corpus, from weights, caps on sources and domains, and a token budget.
#
# A source with n tokens, weight w and cap c gives min(n, c, λ·w·n) tokens, with one λ for all sources (water filling).
# A domain with maximum share r gets at most r·T of the total T. T is the largest solution of T = Σ_domains min(tokens
# of the domain, r·T) that does not exceed the budget.
#
# Documents are taken whole, so a source ends slightly below its quota, and a domain that fills its share of the quotas
# can exceed its share of the tokens taken. `settled` therefore recomputes the quotas from the tokens taken until every
# share holds. Quotas only decrease, so this ends.

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
