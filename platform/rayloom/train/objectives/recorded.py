"""A teacher's most probable tokens at every label of prepared rows, computed once and kept in the store.

    .teachers/KEY/tokens.npy      (labels, k) ids, label by label
                  log_p.npy       (labels, k) fp16
                  labels.npy      (rows + 1,) the first label of each row
                  complete        written last

KEY names the rows, the teacher, the length and k: jobs and trials on the same rows find it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rayloom.artifacts.durable import write_durably
from rayloom.artifacts.manifest import sha256_of
from rayloom.errors import InputError
from rayloom.models.responders.subject import Subject
from rayloom.score.batches import Batch, causal_batch
from rayloom.score.label_loss import LabelLoss
from rayloom.specs.train import TrainSpec
from rayloom.text.packed.shards import Row, TokenShards
from rayloom.train.job import TrainJob
from rayloom.train.objectives.objective import Draw
from rayloom.train.process_group import Group
from rayloom.train.weights.teacher import load_teacher

POSITIONS_AT_ONCE = 256
FOLDER, COMPLETE = ".teachers", "complete"
LABEL_BYTES = 6
"""Of a token of a label: four of its id and two of its log-probability."""


@dataclass(frozen=True)
class SoftRow:
    """A row with what the teacher thinks of its labels."""

    row: Row
    tokens: NDArray[np.int32]
    log_p: NDArray[np.float16]


@dataclass(frozen=True)
class RecordedRows:
    """Rows of a folder with the teacher's part of each, if it was recorded."""

    plain: TokenShards
    record: Path

    def __len__(self) -> int:
        return len(self.plain)

    @functools.cached_property
    def _arrays(self) -> tuple[Any, Any, Any]:
        starts, tokens, log_p = (
            np.load(self.record / f"{name}.npy", mmap_mode="r") for name in ("labels", "tokens", "log_p")
        )
        return starts, tokens, log_p

    def row(self, index: int) -> SoftRow:
        starts, tokens, log_p = self._arrays
        own = slice(starts[index], starts[index + 1])
        return SoftRow(self.plain.row(index), np.array(tokens[own]), np.array(log_p[own]))


@dataclass(frozen=True)
class RecordedTeacher:
    """Causal language modelling with a recorded teacher: rows to train on bring its part; held-out rows need none."""

    sequence_length_tokens: int
    records: dict[Path, Path]
    """The record of each folder of rows."""

    def rows(self, folder: Path) -> TokenShards | RecordedRows:
        plain = TokenShards(folder, self.sequence_length_tokens)
        return RecordedRows(plain, self.records[folder]) if folder in self.records else plain

    def batch(self, rows: Sequence[Any], draws: Sequence[Draw]) -> Batch:  # noqa: ARG002
        if not isinstance(rows[0], SoftRow):
            return causal_batch(rows, padding_token=0)
        made = causal_batch([row.row for row in rows], padding_token=0)
        return replace(
            made,
            soft_tokens=torch.from_numpy(np.concatenate([row.tokens for row in rows]).astype(np.int64)),
            soft_log_p=torch.from_numpy(np.concatenate([row.log_p for row in rows]).astype(np.float32)),
        )

    def loss_of(self, model: nn.Module) -> LabelLoss:
        return LabelLoss(model)


def records_of(spec: TrainSpec, teacher: Subject | None, folders: Sequence[Path]) -> dict[Path, Path]:
    """Where the teacher's part of each folder of rows is kept, or will be; empty if the job records none.

    Raises InputError if the store is no folder.
    """
    if spec.teacher is None or spec.teacher.recorded is None or teacher is None:
        return {}
    made_from = teacher.made_from
    if made_from is not None and not made_from.store.is_local:
        fix = "Leave teacher.recorded out: the teacher is then computed beside the student."
        raise InputError("teacher.recorded needs a store that is a folder", where=made_from.store.uri, fix=fix)
    root = Path(made_from.store.root) if made_from is not None else teacher.base.parent
    known = made_from.manifest.digest if made_from is not None else str(teacher.base)
    found = {}
    for folder in folders:
        files = [f"{file.name} {sha256_of(file)}" for file in sorted(folder.glob("*.npy"))]
        about = [known, str(spec.sequence_length_tokens), str(spec.teacher.recorded.top_k), *files]
        found[folder] = root / FOLDER / hashlib.sha256("\n".join(about).encode()).hexdigest()[:24]
    return found


def record(job: TrainJob, group: Group, say: Callable[[str], None]) -> None:
    """Computes what the job wants recorded and is not yet, all workers together."""
    spec, teacher, micro_batch = job.spec, job.teacher, job.micro_batch_sequences
    if teacher is None or spec.teacher is None or spec.teacher.recorded is None:
        return
    (num_missing,) = group.agreed(sum(not (place / COMPLETE).exists() for place in job.records.values()))
    if not num_missing:
        return
    say("computing what the teacher thinks of all rows before training")
    loss = LabelLoss(load_teacher(spec, teacher, group.device))
    for folder, place in job.records.items():
        rows = TokenShards(folder, spec.sequence_length_tokens)
        counts = [int(rows.row(number).trained[1:].sum()) for number in range(len(rows))]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        shape = (int(starts[-1]), min(spec.teacher.recorded.top_k, rows.vocabulary_size))
        kinds = {"tokens": np.int32, "log_p": np.float16}
        if group.is_first:
            place.mkdir(parents=True, exist_ok=True)
            np.save(place / "labels.npy", starts)
            for name, kind in kinds.items():
                np.lib.format.open_memmap(place / f"{name}.npy", "w+", kind, shape)  # type: ignore[no-untyped-call]
        group.wait_for_all()
        tokens, log_p = (np.load(place / f"{name}.npy", mmap_mode="r+") for name in kinds)
        for begin in range(group.rank * micro_batch, len(rows), micro_batch * group.num_workers):
            end = min(begin + micro_batch, len(rows))
            batch = causal_batch([rows.row(number) for number in range(begin, end)], padding_token=0)
            found = _most_probable(loss, batch.to(group.device), rows.vocabulary_size, shape[1])
            tokens[starts[begin] : starts[end]], log_p[starts[begin] : starts[end]] = found
        tokens.flush()
        log_p.flush()
        group.wait_for_all()
        if group.is_first:
            write_durably(place / COMPLETE, "")
    group.wait_for_all()


@torch.no_grad()
def _most_probable(
    loss: LabelLoss, batch: Batch, vocabulary_size: int, top_k: int
) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
    hidden = loss.hidden_states(batch, batch.label_indices)
    logits = (loss.logits(part)[:, :vocabulary_size] for part in torch.split(hidden, POSITIONS_AT_ONCE))
    found = [of_part.log_softmax(-1).topk(min(top_k, vocabulary_size)) for of_part in logits]
    tokens = np.concatenate([part.indices.cpu().numpy() for part in found]).astype(np.int32)
    return tokens, np.concatenate([part.values.cpu().numpy() for part in found]).astype(np.float16)
