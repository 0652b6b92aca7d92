"""A model that is asked for a task's answers by a prompt: by likelihoods of label words, by a cloze, or in writing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayloom.models.responders.prompt_tokens import ROWS_AT_ONCE, PromptTokens
from rayloom.models.responders.subject import Subject
from rayloom.models.text_embeddings import text_embeddings
from rayloom.score.answers import greedy_answers
from rayloom.score.prompted.choosing import calibrated, label_scores, probabilities
from rayloom.score.prompted.likelihoods import masked_likelihoods, word_likelihoods
from rayloom.specs.prompting import Cloze, Generated, Likelihood, MultipleChoice
from rayloom.text.labelled.decoding import Prediction
from rayloom.text.labelled.examples import Example
from rayloom.text.prompts.answers import parsed
from rayloom.text.prompts.demonstrations import Pool, drawn, nearest, whole_text
from rayloom.text.prompts.template import stopped

Advance = Callable[[int], None]
BLOCK_ROWS = 4096
"""Rows whose prompts are held in memory at once."""


@dataclass(frozen=True)
class PromptedAnswer:
    """What was found for one row."""

    prediction: Prediction
    uncalibrated: Prediction | None = None
    """Where the prompt is calibrated: what it says without."""
    said: str | None = None
    """The text that a model wrote, where it was asked to write."""
    is_parsed: bool = True


@dataclass(frozen=True)
class PromptedModel(PromptTokens):
    """One model with one prompt. Weights are loaded on first use."""

    embedder: Subject | None = None
    """What finds the nearest demonstrations by embedding; None: the model itself."""

    def load(self) -> None:
        """Loads the weights now."""
        self.subject.masked_model if isinstance(self.prompt.scoring, Cloze) else self.subject.model

    # -- demonstrations ------------------------------------------------------------------------------------------------

    def demonstrations(
        self, examples: Sequence[Example], pool: Pool, seed: int, order: int, micro_batch_sequences: int
    ) -> list[list[Example]]:
        """Those of each row."""
        how = self.prompt.demonstrations
        if how is None:
            return [[] for _ in examples]
        if how.choose != "nearest":
            same = drawn(pool.examples, self.prompt, seed, order)
            return [same for _ in examples]
        if how.nearest_by == "embedding":
            own = self.embedder or self.subject
            size = micro_batch_sequences
            texts = ([whole_text(one) for one in some] for some in (examples, pool.examples))
            asked, known = (text_embeddings(own.base, own.tokenizer_folder, some, size) for some in texts)
            chosen = nearest(asked @ known.T, pool.examples, examples, how.num_rows)
        else:
            parts = (examples[first : first + ROWS_AT_ONCE] for first in range(0, len(examples), ROWS_AT_ONCE))
            found = (nearest(pool.bm25.similar(part), pool.examples, part, how.num_rows) for part in parts)
            chosen = [own for part in found for own in part]
        if order:
            shuffle = np.random.default_rng([seed, order])
            chosen = [[own[index] for index in shuffle.permutation(len(own))] for own in chosen]
        return chosen

    # -- answers -------------------------------------------------------------------------------------------------------

    def answers(
        self,
        examples: Sequence[Example],
        shown: Sequence[Sequence[Example]],
        micro_batch_sequences: int,
        advance: Advance = lambda _: None,
        write: Callable[[list[list[int]]], list[str]] | None = None,
    ) -> list[PromptedAnswer]:
        """One for each row. `write`: what writes for prompts of token ids; without it, transformers does."""
        if isinstance(self.prompt.scoring, Generated):
            prompts = self.prompts(examples, shown)
            said = write(prompts) if write else self._written(prompts, micro_batch_sequences, advance)
            return [self.read(example, text) for example, text in zip(examples, said, strict=True)]
        blocks = (slice(first, first + BLOCK_ROWS) for first in range(0, len(examples), BLOCK_ROWS))
        found = (self._likeliest(examples[b], shown[b], micro_batch_sequences, advance) for b in blocks)
        return [answer for block in found for answer in block]

    def _likeliest(
        self,
        examples: Sequence[Example],
        shown: Sequence[Sequence[Example]],
        micro_batch_sequences: int,
        advance: Advance,
    ) -> list[PromptedAnswer]:
        scores = self._scores(examples, shown, None, micro_batch_sequences, advance)
        if isinstance(self.prompt.scoring, Likelihood) and self.prompt.scoring.normalisation == "pmi":
            free = self._scores(examples, shown, "", micro_batch_sequences)
            scores = [own - other for own, other in zip(scores, free, strict=True)]
        if isinstance(self.prompt.task, MultipleChoice):
            return [PromptedAnswer(chosen(example.choices, own)) for example, own in zip(examples, scores, strict=True)]
        labels = self.prompt.labels
        plain = [chosen(labels, own) for own in scores]
        if not self.prompt.calibration:
            return [PromptedAnswer(one) for one in plain]
        better = self._calibrated(np.stack(scores), shown, micro_batch_sequences)
        return [PromptedAnswer(chosen(labels, own), one) for own, one in zip(better, plain, strict=True)]

    def _calibrated(self, scores: Any, shown: Sequence[Sequence[Example]], size: int) -> Any:
        """By the rows that say nothing, behind each set of demonstrations."""
        by_shown: dict[tuple[int, ...], list[int]] = {}
        for number, own in enumerate(shown):
            by_shown.setdefault(tuple(map(id, own)), []).append(number)
        nothing, corrected = Example(""), np.zeros_like(scores)
        for numbers in by_shown.values():
            own = shown[numbers[0]]
            free = self._priors.get(tuple(own))
            if free is None:
                texts = self.prompt.calibration
                free = np.stack([self._scores([nothing], [own], text, size)[0] for text in texts])
            if self.prompt.demonstrations is None or self.prompt.demonstrations.choose != "nearest":
                self._priors[tuple(own)] = free
            corrected[numbers] = calibrated(scores[numbers], free)
        return corrected

    @functools.cached_property
    def _priors(self) -> dict[tuple[Example, ...], Any]:
        """Scores of rows that say nothing, by demonstrations: a service asks for them once."""
        return {}

    def _scores(
        self,
        examples: Sequence[Example],
        shown: Sequence[Sequence[Example]],
        free: str | None,
        size: int,
        advance: Advance = lambda _: None,
    ) -> list[Any]:
        """(K,) of each row: the log-likelihood of each label or choice, as normalised."""
        scoring = self.prompt.scoring
        if isinstance(scoring, Cloze):
            texts = self.prompts(examples, shown, free)
            mask = int(self.tokenizer.mask_token_id)
            words = masked_likelihoods(self.subject.masked_model, texts, mask, self.mask_words(), size, advance)
            return [np.asarray(self._by_label(own)) for own in words]
        asked = self.asked(examples, shown, free)
        different = list(dict.fromkeys(asked))
        found = dict(zip(different, word_likelihoods(self.subject.model, different, size, advance), strict=True))
        scores = []
        for example, one in zip(examples, asked, strict=True):
            values = found[one]
            normalisation = scoring.normalisation if isinstance(scoring, Likelihood) else "none"
            if normalisation == "tokens":
                values = [value / len(word) for value, word in zip(values, one.words, strict=True)]
            elif normalisation == "characters":
                values = [value / len(word) for value, word in zip(values, self.said(example), strict=True)]
            scores.append(np.asarray(self._by_label(values)))
        return scores

    def _by_label(self, values: Sequence[float]) -> Sequence[float]:
        if isinstance(self.prompt.task, MultipleChoice):
            return values
        given = iter(values)
        return label_scores([[next(given) for _ in self.prompt.words_of(label)] for label in self.prompt.labels])

    def _written(self, prompts: list[list[int]], size: int, advance: Advance) -> list[str]:
        scoring = self.prompt.scoring
        if not isinstance(scoring, Generated):
            raise TypeError("only a generated answer is written")
        longest = scoring.generation.max_new_tokens
        tokens = greedy_answers(self.subject.model, prompts, longest, self.stop_tokens, size, advance)
        return [str(self.tokenizer.decode(own, skip_special_tokens=True)) for own in tokens]

    def read(self, example: Example, text: str) -> PromptedAnswer:
        """What a written answer says."""
        scoring = self.prompt.scoring
        if not isinstance(scoring, Generated):
            raise TypeError("only a generated answer is read")
        said = stopped(text, scoring)
        prediction = parsed(self.prompt, example, said)
        return PromptedAnswer(prediction or Prediction(), said=said, is_parsed=prediction is not None)


def chosen(names: Sequence[str], scores: Any) -> Prediction:
    """The highest of the scores, with everyone's share."""
    shares = probabilities(np.asarray(scores, np.float64))
    return Prediction((names[int(shares.argmax())],), probabilities=dict(zip(names, shares.tolist(), strict=True)))
