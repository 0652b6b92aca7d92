"""The tokens that a denoising model reads and predicts: masked tokens, or spans replaced by sentinels.

Masking: Devlin et al. 2019, section 3.1 and appendix A.1. Span corruption: Raffel et al. 2020, section 3.1.4.
Shapes: T tokens of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayloom.score.batches import NO_LABEL

MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Shares of chosen tokens that become the mask or a random token. The others stay: unmasked tokens have labels too."""

Tokens = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Vocabulary:
    """What masking needs to know about the vocabulary."""

    mask_token: int
    is_special: Flags
    """(V,) tokens that are never chosen and never used as random replacements."""
    begins_word: Flags | None = None
    """(V,) whether a token begins a word; given only for whole-word masking."""


def masked_row(
    tokens: Tokens, positions: Tokens, share: float, vocabulary: Vocabulary, random: np.random.Generator
) -> tuple[Tokens, Tokens]:
    """(T,) masked tokens, and (T,) labels: the original token at each chosen position, NO_LABEL elsewhere."""
    chosen = _chosen(tokens, positions, share, vocabulary, random)
    read = tokens.copy()
    fate = random.random(len(chosen))
    read[chosen[fate < MASKED_SHARE]] = vocabulary.mask_token
    replaced = chosen[(fate >= MASKED_SHARE) & (fate < MASKED_SHARE + RANDOM_SHARE)]
    read[replaced] = random.choice(np.flatnonzero(~vocabulary.is_special), len(replaced))
    labels = np.full(len(tokens), NO_LABEL, np.int64)
    labels[chosen] = tokens[chosen]
    return read, labels


def _chosen(
    tokens: Tokens, positions: Tokens, share: float, vocabulary: Vocabulary, random: np.random.Generator
) -> Tokens:
    """Chosen positions, about `share` of the tokens that are not special: single tokens, or whole words."""
    candidates = np.flatnonzero(~vocabulary.is_special[tokens])
    wanted = max(1, round(share * len(candidates)))
    if vocabulary.begins_word is None:
        return random.permutation(candidates)[:wanted]
    begins = vocabulary.begins_word[tokens] | (positions == 0)
    # Words are taken in random order until enough tokens are chosen; the last one may exceed the share.
    words = np.cumsum(begins)[candidates]
    order = random.permutation(np.unique(words))
    sizes = np.array([np.count_nonzero(words == word) for word in order], np.int64)
    taken = order[np.concatenate([[0], np.cumsum(sizes)[:-1]]) < wanted] if len(order) else order
    return candidates[np.isin(words, taken)]


def begins_word(pieces: Sequence[str]) -> Flags:
    """(V,) whether each token begins a word, from its text: `##ing`, `Ġthe`, `▁the`, `ing`, `,`.

    If the tokenizer marks beginnings of words (with a space), a token continues a word only if it starts with a letter.
    """
    if any(piece.startswith("##") for piece in pieces):
        return np.array([not (len(piece) > 2 and piece.startswith("##")) for piece in pieces], np.bool_)
    return np.array([not piece[:1].isalpha() or piece[0] in "ĠĊĉ" for piece in pieces], np.bool_)


# Span corruption.


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
