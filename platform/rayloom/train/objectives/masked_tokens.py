"""Tokens hidden from an encoder, which then predicts them (Devlin et al. 2019, section 3.1 and appendix A.1).

Shapes: T tokens of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayloom.score.batches import NO_LABEL

MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Of the chosen tokens; the rest stay as they were, so that the model cannot trust what it sees."""

Tokens = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Vocabulary:
    """What masking must know of the tokens."""

    mask_token: int
    is_special: Flags
    """(V,) never chosen, and never put in at random."""
    begins_word: Flags | None = None
    """(V,) whether a piece begins a word; given where words are chosen whole."""


def masked_row(
    tokens: Tokens, positions: Tokens, share: float, vocabulary: Vocabulary, random: np.random.Generator
) -> tuple[Tokens, Tokens]:
    """(T,) what the model reads, and (T,) labels: the token at each chosen place, NO_LABEL elsewhere."""
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
    """Places, about `share` of all that are not special: single tokens, or all pieces of words."""
    candidates = np.flatnonzero(~vocabulary.is_special[tokens])
    wanted = max(1, round(share * len(candidates)))
    if vocabulary.begins_word is None:
        return random.permutation(candidates)[:wanted]
    begins = vocabulary.begins_word[tokens] | (positions == 0)
    # Words come in random order until enough tokens are chosen; the last may take a few too many.
    words = np.cumsum(begins)[candidates]
    order = random.permutation(np.unique(words))
    sizes = np.array([np.count_nonzero(words == word) for word in order], np.int64)
    taken = order[np.concatenate([[0], np.cumsum(sizes)[:-1]]) < wanted] if len(order) else order
    return candidates[np.isin(words, taken)]


def begins_word(pieces: Sequence[str]) -> Flags:
    """(V,) for pieces as tokenizers write them: `##ing`, `Ġthe`, `▁the`, `ing`, `,`.

    Where pieces mark what begins a word (by a space), only one that begins with a letter continues the one before.
    """
    if any(piece.startswith("##") for piece in pieces):
        return np.array([not (len(piece) > 2 and piece.startswith("##")) for piece in pieces], np.bool_)
    return np.array([not piece[:1].isalpha() or piece[0] in "ĠĊĉ" for piece in pieces], np.bool_)
