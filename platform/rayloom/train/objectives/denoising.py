"""Objectives that hide part of a row: masked tokens for encoders, replaced spans for encoder-decoders.

What is hidden is drawn anew each time a row is read, and is a pure function of (seed, place in the run), so that a
resumed run hides the same, on any number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rayloom.score.batches import NO_LABEL, Batch, PackedRow
from rayloom.score.label_loss import LabelLoss
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.objectives import Causal, Masked, SpanCorruption
from rayloom.text.packed.shards import TokenShards
from rayloom.train.objectives.masked_tokens import Vocabulary, begins_word, masked_row
from rayloom.train.objectives.objective import Draw, NextToken, Objective
from rayloom.train.objectives.span_corruption import corrupted, corruption_of
from rayloom.train.weights.vocabulary import sentinel_tokens

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class MaskedTokens:
    """Hidden tokens from both sides."""

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
            found = masked_row(row.tokens, row.positions, self.spec.share, self.vocabulary, random)
            read.append(found[0])
            labels.append(found[1])
        return Batch(
            tokens=_stacked(read, self.padding_token),
            positions=_stacked([row.positions for row in rows], 0),
            labels=_stacked(labels, NO_LABEL),
            num_tokens=sum(len(row.tokens) for row in rows),
        )


@dataclass(frozen=True)
class CorruptedSpans:
    """What stood where sentinels are."""

    sequence_length_tokens: int
    spec: SpanCorruption
    sentinels: Tokens
    end_token: int
    start_token: int
    """What the decoder reads first; also the padding."""

    def rows(self, folder: Path) -> TokenShards:
        return TokenShards(folder, self.sequence_length_tokens)

    def loss_of(self, model: nn.Module) -> LabelLoss:
        return LabelLoss(model)

    def batch(self, rows: Sequence[PackedRow], draws: Sequence[Draw]) -> Batch:
        made = [self._row(row, np.random.default_rng(draw)) for row, draw in zip(rows, draws, strict=True)]
        texts, targets = [row[0] for row in made], [row[1] for row in made]
        read = [np.concatenate([self._shifted(target) for target in row]) for row in targets]
        return Batch(
            tokens=_stacked([np.concatenate(row) for row in texts], self.start_token),
            positions=_stacked([_places(row) for row in texts], 0),
            labels=_stacked([np.concatenate(row) for row in targets], NO_LABEL),
            num_tokens=sum(len(row.tokens) for row in rows),
            decoder_tokens=_stacked(read, self.start_token),
            decoder_positions=_stacked([_places(row) for row in targets], 0),
        )

    def _row(self, row: PackedRow, random: np.random.Generator) -> tuple[list[Tokens], list[Tokens]]:
        """Texts and targets of the row's documents. One of a single token has nothing to predict it from."""
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
        """What the decoder reads where it must write `target`."""
        read = np.concatenate([[self.start_token], target[:-1]])
        return np.where(read == NO_LABEL, self.start_token, read)


def pretraining_objective(job: TrainSpec, folder: Path) -> Objective:
    """`folder`: of the tokenizer with the tokens that the objective needs, as `train.vocabulary` prepares it."""
    spec, length = job.objective_in_use, job.sequence_length_tokens
    if isinstance(spec, Causal):
        return NextToken(length)
    from transformers import AutoTokenizer

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


def _stacked(rows: Sequence[Tokens], filler: int) -> torch.Tensor:
    """(rows, longest), filled up at the end. Positions filled with 0 make each place a document of its own."""
    length = max(len(row) for row in rows)
    out = np.full((len(rows), length), filler, np.int64)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return torch.from_numpy(out)
