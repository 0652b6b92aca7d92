"""Denoising objectives: masked language modelling for encoders, span corruption for encoder-decoders.

The mask is drawn anew each time a row is read. It is a pure function of (seed, position in the run), so a resumed run
draws the same masks, on any number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rayloom.score.batches import NO_LABEL, Batch, PackedRow, stacked
from rayloom.score.label_loss import LabelLoss
from rayloom.score.parallel.axis import ALONE, Axis
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.objectives import Causal, Masked, SpanCorruption
from rayloom.text.packed.shards import TokenShards
from rayloom.train.objectives.corruption import Vocabulary, begins_word, corrupted, corruption_of, masked_row
from rayloom.train.objectives.objective import Draw, NextToken, Objective
from rayloom.train.weights.vocabulary import sentinel_tokens

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class MaskedTokens:
    """Masked language modelling: predicts masked tokens from the tokens on both sides."""

    sequence_length_tokens: int
    spec: Masked
    vocabulary: Vocabulary
    padding_token: int = 0

    def rows(self, folder: Path) -> TokenShards:
        return TokenShards(folder, self.sequence_length_tokens)

    def loss_of(self, model: nn.Module) -> LabelLoss:
        return LabelLoss(model)

    def batch(self, rows: Sequence[PackedRow], draws: Sequence[Draw]) -> Batch:
        read, labels = [], []
        for row, draw in zip(rows, draws, strict=True):
            random = np.random.default_rng(draw)
            masked = masked_row(row.tokens, row.positions, self.spec.share, self.vocabulary, random)
            read.append(masked[0])
            labels.append(masked[1])
        return Batch(
            tokens=stacked(read, self.padding_token),
            positions=stacked([row.positions for row in rows], 0),
            labels=stacked(labels, NO_LABEL),
            num_tokens=sum(len(row.tokens) for row in rows),
        )


@dataclass(frozen=True)
class CorruptedSpans:
    """Span corruption: predicts the text that was replaced by sentinels."""

    sequence_length_tokens: int
    spec: SpanCorruption
    sentinels: Tokens
    end_token: int
    start_token: int
    """The decoder's start token, which is also the padding."""

    def rows(self, folder: Path) -> TokenShards:
        return TokenShards(folder, self.sequence_length_tokens)

    def loss_of(self, model: nn.Module) -> LabelLoss:
        return LabelLoss(model)

    def batch(self, rows: Sequence[PackedRow], draws: Sequence[Draw]) -> Batch:
        made = [self._row(row, np.random.default_rng(draw)) for row, draw in zip(rows, draws, strict=True)]
        texts, targets = [row[0] for row in made], [row[1] for row in made]
        read = [np.concatenate([self._shifted(target) for target in row]) for row in targets]
        return Batch(
            tokens=stacked([np.concatenate(row) for row in texts], self.start_token),
            positions=stacked([_places(row) for row in texts], 0),
            labels=stacked([np.concatenate(row) for row in targets], NO_LABEL),
            num_tokens=sum(len(row.tokens) for row in rows),
            decoder_tokens=stacked(read, self.start_token),
            decoder_positions=stacked([_places(row) for row in targets], 0),
        )

    def _row(self, row: PackedRow, random: np.random.Generator) -> tuple[list[Tokens], list[Tokens]]:
        """Corrupted texts and targets of the row's documents. Documents of a single token are left out."""
        texts, targets = [], []
        for document in np.split(row.tokens, np.flatnonzero(row.positions == 0)[1:]):
            if len(document) < 2:
                continue
            spec, most = self.spec, len(self.sentinels)
            corruption = corruption_of(len(document), spec.share, spec.mean_span_tokens, most, random)
            text, target = corrupted(document, corruption, self.sentinels, self.end_token)
            texts.append(text)
            targets.append(target)
        if not texts:
            return [row.tokens], [np.full(1, NO_LABEL, np.int64)]
        return texts, targets

    def _shifted(self, target: Tokens) -> Tokens:
        """The decoder's input for a target: the start token, then the target without its last token."""
        read = np.concatenate([[self.start_token], target[:-1]])
        return np.where(read == NO_LABEL, self.start_token, read)


def pretraining_objective(job: TrainSpec, folder: Path, context: Axis = ALONE) -> Objective:
    """The objective of a job without task or preference. `folder`: tokenizer of `weights.vocabulary.tokenizer_for`.

    `context`: the workers among which rows are cut.
    """
    spec, length = job.objective_in_use, job.sequence_length_tokens
    if isinstance(spec, Causal):
        return NextToken(length, context, job.router_balance)
    from rayloom.pretrained import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if isinstance(spec, SpanCorruption):
        names = sentinel_tokens(spec.num_sentinels)
        sentinels = np.array(tokenizer.convert_tokens_to_ids(names), np.int64)
        return CorruptedSpans(length, spec, sentinels, int(tokenizer.eos_token_id), int(padding))
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    is_special = np.zeros(len(tokenizer), np.bool_)
    is_special[tokenizer.all_special_ids] = True
    begins = begins_word(pieces) if spec.whole_words else None
    return MaskedTokens(length, spec, Vocabulary(tokenizer.mask_token_id, is_special, begins), int(padding))


def _places(documents: Sequence[Tokens]) -> Tokens:
    return np.concatenate([np.arange(len(document)) for document in documents])
