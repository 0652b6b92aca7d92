"""Preference optimisation (DPO, ORPO, SimPO, KTO) as an objective, and the reference log-probabilities it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rayloom.artifacts.durable import appearing
from rayloom.score.batches import causal_batch
from rayloom.score.preference_loss import PreferenceBatch, PreferenceLoss
from rayloom.specs.training.preferences import Dpo, Kto, Orpo, SimPo
from rayloom.text.conversations.preference_rows import PreferenceRows
from rayloom.train.objectives.objective import Draw
from rayloom.train.process_group import Group


@dataclass(frozen=True)
class PreferenceObjective:
    """The objective of DPO, ORPO, SimPO or KTO."""

    preference: Dpo | Orpo | SimPo | Kto
    sequence_length_tokens: int

    def rows(self, folder: Path) -> PreferenceRows:
        return PreferenceRows(folder, self.sequence_length_tokens)

    def batch(self, rows: Sequence[Any], draws: Sequence[Draw]) -> PreferenceBatch:  # noqa: ARG002
        return PreferenceBatch(
            both=causal_batch([row.row for row in rows], padding_token=0),
            reference=torch.from_numpy(np.stack([row.reference for row in rows])),
            is_good=torch.tensor([row.is_good for row in rows]),
            num_labels=len(rows),
        )

    def loss_of(self, model: nn.Module) -> PreferenceLoss:
        return PreferenceLoss(model, self.preference)


@torch.no_grad()
def add_reference(rows: Any, loss: Any, micro_batch_sequences: int, group: Group) -> Path:
    """Sets the reference log-probabilities of PreferenceRows; returns the file that stores them.

    They are computed once, with the model before training, by all workers. A resumed run reads the file instead.
    """
    file: Path = rows.reference_file
    if not file.exists():
        was_training = loss.model.training
        loss.model.eval()
        log_p_of_all = np.zeros((len(rows), 2), np.float64)
        starts = range(0, len(rows), micro_batch_sequences)
        # Sharded weights are gathered collectively, so all workers must run equally many batches.
        for turn in range(-(-len(starts) // group.num_workers)):
            own = turn * group.num_workers + group.rank
            numbers = _numbers(starts, own if own < len(starts) else 0, len(rows))
            batch = causal_batch([rows.row(number).row for number in numbers], padding_token=0)
            log_p = loss.answers(batch.to(group.device)).log_p.cpu().numpy()
            if own < len(starts):
                log_p_of_all[numbers.start : numbers.stop] = log_p
        loss.model.train(was_training)
        summed = np.asarray(group.agreed(*log_p_of_all.reshape(-1).tolist())).reshape(-1, 2)
        if group.is_first:
            _write(summed, file)
        group.wait_for_all()
        if not file.exists():  # on a node that does not share the first worker's disk
            _write(summed, file)
    rows.reference = np.load(file, allow_pickle=False)
    return file


def _write(log_p: NDArray[np.float64], file: Path) -> None:
    # Workers of one node, and trials of a search, share the file and may write it at the same time.
    with appearing(file) as unfinished, unfinished.open("wb") as opened:
        np.save(opened, log_p.astype(np.float32), allow_pickle=False)


def _numbers(starts: range, own: int, num_rows: int) -> range:
    return range(starts[own], min(starts[own] + starts.step, num_rows))
