"""Filters that compare with what was there before: passages of seeds, ROUGE-L, near duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from rayloom.generate.filters.filter import Candidate, DropReason, Filter
from rayloom.score.rouge_index import RougeIndex, rouge_words
from rayloom.specs.generation.filters import NearDuplicateFilter, SeedWordsFilter, SimilarFilter
from rayloom.text.minhash import Bands, is_similar
from rayloom.text.text_views import Folded, is_unspaced

NUM_BANDS, ROWS_PER_BAND = 16, 4
"""A pair of similarity 0.8 becomes a candidate with a probability of 1 − (1 − 0.8⁴)¹⁶ = 0.9998."""


class SeedWords(Filter):
    """Passages that stand in a seed."""

    def __init__(self, spec: SeedWordsFilter, seeds: Sequence[str]) -> None:
        self._size = spec.max_copied_words + 1
        self._passages = {passage for seed in seeds for passage in self._of(seed)}

    def of_instruction(self, text: str) -> DropReason | None:
        found = next((passage for passage in self._of(text) if passage in self._passages), None)
        return None if found is None else DropReason("copies_a_seed", " ".join(found))

    def of_row(self, row: Candidate) -> DropReason | None:
        return self.of_instruction(row.answer) or (self.of_instruction(row.prompt) if row.is_new else None)

    def _of(self, text: str) -> Iterable[tuple[str, ...]]:
        words = rouge_words(text)
        return zip(*(words[start:] for start in range(self._size)), strict=False)


class TooSimilar(Filter):
    """ROUGE-L of an instruction to the seeds' and to those that were kept. `seeds`: their instructions come first."""

    def __init__(self, spec: SimilarFilter, seeds: Sequence[str]) -> None:
        self._index = RougeIndex(spec.similarity_threshold)
        self._texts: list[str] = []
        for seed in seeds:
            self.keep_instruction(seed.partition("\n")[0])

    def of_instruction(self, text: str) -> DropReason | None:
        found = self._index.most_similar(text)
        if found is None:
            return None
        return DropReason("too_similar", f"ROUGE-L {found.rouge_l:.2f} to: {self._texts[found.number]}")

    def keep_instruction(self, text: str) -> None:
        self._index.add(text)
        self._texts.append(text)


class NearDuplicates(Filter):
    """Whole rows, by MinHash candidates and exact Jaccard similarity; answers that only repeat their prompt."""

    def __init__(self, spec: NearDuplicateFilter, _: Sequence[str]) -> None:
        self._spec, self._bands = spec, Bands(NUM_BANDS, ROWS_PER_BAND)
        self._by_key: dict[int, list[int]] = {}
        self._shingles: list[NDArray[np.uint64]] = []
        self._prompts: set[bytes] = set()

    def of_row(self, row: Candidate) -> DropReason | None:
        prompt = _folded(row.prompt)
        if _folded(row.answer).content == prompt.content:
            return DropReason("repeats_the_prompt")
        if row.is_new and prompt.exact_key in self._prompts:
            return DropReason("same_prompt")
        shingles = self._of(row)
        near = {number for key in self._keys(shingles) for number in self._by_key.get(key, ())}
        is_near = any(is_similar(shingles, self._shingles[one], self._spec.similarity_threshold) for one in near)
        return DropReason("near_duplicate") if is_near else None

    def keep_row(self, row: Candidate) -> None:
        shingles = self._of(row)
        for key in self._keys(shingles):
            self._by_key.setdefault(key, []).append(len(self._shingles))
        self._shingles.append(shingles)
        self._prompts.add(_folded(row.prompt).exact_key)

    def _of(self, row: Candidate) -> NDArray[np.uint64]:
        return _folded(f"{row.prompt}\n{row.answer}").shingles(self._spec.shingle_words)

    def _keys(self, shingles: NDArray[np.uint64]) -> list[int]:
        keys: list[int] = self._bands.keys(shingles).tolist()
        return keys


def _folded(text: str) -> Folded:
    return Folded(text, is_unspaced(text))
