"""Span corruption: replaces spans of a text by sentinels, and makes the target (Raffel et al. 2020, section 3.1.4).

    text     Thank you for inviting me to your party last week
    encoder  Thank you <0> me to your party <1> week </s>
    target   <0> for inviting <1> last </s>

Shapes: T tokens of a text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Corruption:
    """Lengths of alternating kept and replaced spans, starting and ending with a kept one, which may be empty."""

    kept: Tokens
    replaced: Tokens


def corruption_of(
    num_tokens: int, share: float, mean_span_tokens: float, most_spans: int, random: np.random.Generator
) -> Corruption:
    """Random spans for a text of at least two tokens. Their number is fixed; positions and lengths are random."""
    num_replaced = min(max(round(num_tokens * share), 1), num_tokens - 1)
    spans = round(num_replaced / mean_span_tokens)
    num_kept = num_tokens - num_replaced
    spans = min(max(spans, 1), num_replaced, num_kept + 1, most_spans)
    kept = _cut(num_kept + 2, spans + 1, random)
    kept[[0, -1]] -= 1
    return Corruption(kept, _cut(num_replaced, spans, random))


def _cut(num_tokens: int, num_spans: int, random: np.random.Generator) -> Tokens:
    """Lengths of `num_spans` non-empty spans that sum to `num_tokens`; all partitions are equally likely."""
    cuts = np.sort(random.choice(num_tokens - 1, num_spans - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [num_tokens]])).astype(np.int64)


def corrupted(tokens: Tokens, corruption: Corruption, sentinels: Tokens, end_token: int) -> tuple[Tokens, Tokens]:
    """The encoder's input, and the decoder's target."""
    read: list[Tokens] = []
    written: list[Tokens] = []
    begin = 0
    for number, (kept, replaced) in enumerate(zip(corruption.kept, corruption.replaced, strict=False)):
        sentinel = sentinels[number : number + 1]
        read += [tokens[begin : begin + kept], sentinel]
        written += [sentinel, tokens[begin + kept : begin + kept + replaced]]
        begin += kept + replaced
    end = np.array([end_token], np.int64)
    return np.concatenate([*read, tokens[begin:], end]), np.concatenate([*written, end])
