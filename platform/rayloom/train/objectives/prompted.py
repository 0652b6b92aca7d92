"""Training on a prompt: rows are rendered when they are read, each time behind other demonstrations."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from rayloom.errors import InputError
from rayloom.models.responders.prompt_tokens import PromptTokens
from rayloom.models.responders.prompted import PromptedModel
from rayloom.models.responders.prompted_rows import PromptEncoder
from rayloom.models.responders.subject import Subject
from rayloom.models.task_models import save_prompt
from rayloom.reading.files import RowFile
from rayloom.score.prompted.likelihoods import AskedWords
from rayloom.score.prompted.word_loss import WordBatch, WordLoss, word_batch
from rayloom.specs.prompting import Cloze, Likelihood, Prompt
from rayloom.specs.training.labelled_data import LabelledData
from rayloom.specs.training.prompted import classes_of
from rayloom.text.labelled.dataset import LabelledCounts, LabelledSplit, label_counts, split_examples
from rayloom.text.labelled.example_rows import ExampleRows, SolvedRow, write_example_rows
from rayloom.text.labelled.examples import Example
from rayloom.text.prompts.demonstrations import Pool, drawn, same_text
from rayloom.text.tokenizer_files import tokenizer_digest
from rayloom.train.job import TrainJob
from rayloom.train.objectives.objective import Draw
from rayloom.train.objectives.task import class_weights


@dataclass(frozen=True)
class PromptedObjective:
    """The right label's words are to be likelier than the others', by the score that evaluations choose labels by."""

    model: PromptedModel
    """The base's tokens with the prompt; its weights are not loaded."""
    train: Path
    """Folder of the rows to train on, from which demonstrations are drawn too."""

    @classmethod
    def of(cls, prompt: Prompt, base: Path, train: Path) -> PromptedObjective:
        return cls(asked_of(prompt, base), train)

    @functools.cached_property
    def pool(self) -> Pool:
        return Pool(tuple(ExampleRows(self.train).examples))

    def rows(self, folder: Path) -> ExampleRows:
        return ExampleRows(folder, is_heldout=folder != self.train)

    def batch(self, rows: Sequence[SolvedRow], draws: Sequence[Draw]) -> WordBatch:
        examples = [row.example for row in rows]
        shown = [self.shown(row, draw) for row, draw in zip(rows, draws, strict=True)]
        prompt, number = self.model.prompt, {label: n for n, label in enumerate(self.model.prompt.labels)}
        targets = [number[example.labels[0]] for example in examples]
        if isinstance(prompt.scoring, Cloze):
            words = tuple((token,) for token in self.model.mask_words())
            asked = [AskedWords(tuple(ids), words) for ids in self.model.prompts(examples, shown)]
            ones = [[1.0] * len(words)] * len(rows)
            return word_batch(asked, targets, ones, int(self.model.tokenizer.mask_token_id))
        asked = self.model.asked(examples, shown, None)
        return word_batch(asked, targets, [self._divisors(*pair) for pair in zip(examples, asked, strict=True)])

    def _divisors(self, example: Example, asked: AskedWords) -> list[float]:
        scoring = self.model.prompt.scoring
        how = scoring.normalisation if isinstance(scoring, Likelihood) else "none"
        sizes = {
            "tokens": [float(len(word)) for word in asked.words],
            "characters": [float(len(word)) for word in self.model.said(example)],
        }
        return sizes.get(how, [1.0] * len(asked.words))

    def shown(self, row: SolvedRow, draw: Draw) -> list[Example]:
        """A row's demonstrations: of a held-out one those that a prediction shows, else drawn anew."""
        how = self.model.prompt.demonstrations
        if how is None:
            return []
        seed = int(np.random.SeedSequence(draw).generate_state(1)[0])
        if how.choose == "nearest":  # of which a row's own text is never one
            return self.model.demonstrations([row.example], self.pool, 0, 0 if row.is_heldout else seed, 1)[0]
        if row.is_heldout:
            return self._shown_to_heldout
        others = [one for one in self.pool.examples if same_text(one) != same_text(row.example)]
        return drawn(others, self.model.prompt, seed)

    @functools.cached_property
    def _shown_to_heldout(self) -> list[Example]:
        return drawn(self.pool.examples, self.model.prompt, 0)

    def loss_of(self, model: nn.Module) -> WordLoss:
        prompt = self.model.prompt
        task, counts = classes_of(prompt), Counter(one.labels[0] for one in self.pool.examples)
        words = [len(prompt.words_of(label)) for label in prompt.labels]
        return WordLoss(model, words, task.label_smoothing, class_weights(task, counts))


def asked_of(prompt: Prompt, base: Path) -> PromptedModel:
    """The base as a prompt asks it: prompts and words in its tokens."""
    return PromptedModel(Subject("base", base.name, base), prompt)


def prepare_prompted(
    data: LabelledData,
    files: Mapping[str, Sequence[RowFile]],
    tokens: PromptTokens,
    sequence_length_tokens: int,
    seed: int,
    out: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> LabelledCounts:
    """As `prepare_labelled`, for rows that a prompt renders. Raises InputError where the base cannot be asked so."""
    tokens.check()
    encoder, counts = PromptEncoder(tokens, sequence_length_tokens), LabelledCounts()
    train, heldout = split_examples(data, files, encoder, seed, counts, advance)
    _check_demonstrations(tokens, train, heldout, sequence_length_tokens)
    digest = tokenizer_digest(tokens.tokenizer)
    for name, part in (("train", train), ("heldout", heldout)):
        num_tokens = sum(encoder.lengths(part))
        write_example_rows(part, out / name, digest, num_tokens)
        setattr(counts, name, LabelledSplit(len(part), len(part), num_tokens, label_counts(part, encoder.task)))
    return counts


def _check_demonstrations(
    tokens: PromptTokens, train: Sequence[Example], heldout: Sequence[Example], most: int
) -> None:
    """Raises InputError where demonstrations are too few, or the longest ones leave no room for a row."""
    how = tokens.prompt.demonstrations
    if how is None:
        return
    where = "task.prompt.demonstrations"
    others = len({same_text(one) for one in train}) - 1
    if others < how.num_rows:
        what = f"num_rows is {how.num_rows}, and there are {max(0, others)} other rows to show before each"
        raise InputError(what, where=where, fix="Show fewer, or train on more rows.")
    lengths = PromptEncoder(tokens, most).lengths(train)
    order = sorted(range(len(train)), key=lambda number: -lengths[number])[: how.num_rows + 1]
    longest = [train[number] for number in order]
    rows = [*train, *heldout]
    shown = [[one for one in longest if one is not row][: how.num_rows] for row in rows]
    try:
        tokens.check_lengths(rows, shown, most)
    except InputError as error:
        fix = f"Raise sequence_length_tokens. {error.fix}"
        raise InputError(f"{error.what} (behind the longest rows)", where=where, fix=fix) from None


def first_prompts(job: TrainJob, count: int) -> list[tuple[Example, str, str]]:
    """The first rows that are trained on, each as its prompt reads at first, and the word that is learned."""
    if job.spec.prompt is None or job.base is None:
        return []
    objective = PromptedObjective.of(job.spec.prompt, job.base, job.train[0])
    rows, model = objective.rows(job.train[0]), objective.model
    first = [rows.row(number) for number in range(min(count, len(rows)))]
    shown = [objective.shown(row, (job.spec.seed, number)) for number, row in enumerate(first)]
    return [
        (row.example, model.readable(row.example, own), model.renderer.answer(row.example))
        for row, own in zip(first, shown, strict=True)
    ]


def keep_prompt(job: TrainJob, out: Path) -> None:
    """Puts the prompt and the rows that it shows into the folder of a finished model, if it was trained on one."""
    if job.spec.prompt is not None:
        examples = ExampleRows(job.train[0]).examples
        save_prompt(job.spec.prompt, job.spec.sequence_length_tokens, examples, out)
