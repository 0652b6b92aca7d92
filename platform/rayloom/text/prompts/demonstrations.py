"""Which solved rows stand before the one that is asked: drawn, drawn evenly by label, or those that resemble it most.

Shapes: N rows that are asked, P rows to choose from.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayloom.specs.prompting import Prompt
from rayloom.text.labelled.examples import Example

Floats = NDArray[np.float64]
K1, B = 1.5, 0.75
"""Saturation of a word's count, and how much a text's length counts (Robertson & Zaragoza 2009, section 3.4)."""
_WORD = r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
"""A word, or one character of a language without spaces."""


def drawn(pool: Sequence[Example], prompt: Prompt, seed: int, order: int = 0) -> list[Example]:
    """The demonstrations that all rows share; `order` 0, 1, … are the same ones in other orders.

    Evenly by label: one of each label in turn, until there are enough.
    """
    how = prompt.demonstrations
    if how is None:
        return []
    shuffled = [pool[index] for index in np.random.default_rng([seed, len(pool)]).permutation(len(pool))]
    if how.choose == "by_label" and prompt.labels:
        groups = {
            label: [one for one in shuffled if label in one.labels or _has(one, label)] for label in prompt.labels
        }
        shuffled = _in_turn(groups, shuffled)
    chosen = shuffled[: how.num_rows]
    return [chosen[index] for index in np.random.default_rng([seed, len(pool), order]).permutation(len(chosen))]


def _has(example: Example, entity: str) -> bool:
    return any(span.label == entity for span in example.spans)


def _in_turn(groups: dict[str, list[Example]], shuffled: Sequence[Example]) -> list[Example]:
    most = max((len(group) for group in groups.values()), default=0)
    in_turn = [group[number] for number in range(most) for group in groups.values() if number < len(group)]
    # An example of several labels stands in several groups.
    return list(dict.fromkeys([*in_turn, *shuffled]))


def nearest(similar: Floats, pool: Sequence[Example], rows: Sequence[Example], count: int) -> list[list[Example]]:
    """For each row the most similar of the pool, the nearest last, but none with the row's own text. (N, P)"""
    chosen = []
    for row, order in zip(rows, np.argsort(-similar, axis=1, kind="stable"), strict=True):
        others = (pool[index] for index in order if same_text(pool[index]) != same_text(row))
        chosen.append([one for _, one in zip(range(count), others, strict=False)][::-1])
    return chosen


class Bm25:
    """Which of the rows to choose from share many rare words with a row (Robertson & Zaragoza 2009)."""

    def __init__(self, examples: Sequence[Example]) -> None:
        from sklearn.feature_extraction.text import CountVectorizer

        self._counter = CountVectorizer(token_pattern=_WORD)
        counts = self._counter.fit_transform(map(whole_text, examples)).tocsr().astype(np.float64)
        occurs = np.bincount(counts.indices, minlength=counts.shape[1])
        rarity = np.log1p((len(examples) - occurs + 0.5) / (occurs + 0.5))
        lengths = np.asarray(counts.sum(axis=1)).ravel()
        penalty = K1 * (1 - B + B * lengths / max(lengths.mean(), 1.0))
        of_row = np.repeat(np.arange(len(examples)), np.diff(counts.indptr))
        counts.data = rarity[counts.indices] * counts.data * (K1 + 1) / (counts.data + penalty[of_row])
        self._weights = counts.T

    def similar(self, rows: Sequence[Example]) -> Floats:
        """(N, P)"""
        asked = self._counter.transform(map(whole_text, rows)).sign()
        similar: Floats = np.asarray((asked @ self._weights).todense())
        return similar


@dataclass(frozen=True)
class Pool:
    """Solved rows that demonstrations are chosen from."""

    examples: tuple[Example, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)

    @functools.cached_property
    def bm25(self) -> Bm25:
        return Bm25(self.examples)


def whole_text(example: Example) -> str:
    """What rows are compared by."""
    return example.text if example.pair is None else f"{example.text}\n{example.pair}"


def same_text(example: Example) -> tuple[str, str | None]:
    return example.text, example.pair
