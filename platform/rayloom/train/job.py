"""One training run as plain values: what the loop is given, wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayloom.artifacts.work_copy import WorkCopy
from rayloom.specs.train import TrainSpec


@dataclass(frozen=True)
class TrainJob:
    """All paths are absolute. Every worker sees them, or has its own node's (`rayloom.train.prepare`)."""

    spec: TrainSpec
    base: Path | None
    """Folder of the model to continue from."""
    tokenizer: Path
    """Folder whose tokenizer files go with the result."""
    train: tuple[Path, ...]
    """Folders of token shards to train on."""
    shares: tuple[float, ...]
    """Each one's part of the rows."""
    heldout: dict[str, Path]
    """Folders of token shards to measure on, by name; the first decides on stopping."""
    work: Path
    """Checkpoints and logs; survives a kill."""
    out: Path
    """Where the finished model is written."""

    num_rows: int
    """Rows in all of the run; the last step may have fewer than the others."""
    micro_batch_sequences: int
    """The spec's, or fewer after running out of memory."""
    retry_after_steps: int | None = None
    """If they are fewer: steps after which the spec's own micro-batch is tried again."""
    copy: WorkCopy | None = None
    """Where workers do not see the same `work`, its copy in the store."""

    @property
    def num_steps(self) -> int:
        return -(-self.num_rows // self.spec.global_batch_sequences)

    @property
    def checkpoints(self) -> Path:
        return self.work / "checkpoints"

    @property
    def log(self) -> Path:
        return self.work / "metrics.jsonl"

    @property
    def finished(self) -> Path:
        """Exists once training is done and `out` is whole."""
        return self.work / "finished"

    @property
    def best(self) -> Path:
        """The best weights so far, where early stopping keeps them."""
        return self.work / "best"


def rows_of_run(spec: TrainSpec, num_rows: Sequence[int], shares: Sequence[float]) -> int:
    """Rows in all of a run: steps × batch, or epochs of the first data set with the others' shares beside it."""
    if spec.num_steps is not None:
        return spec.num_steps * spec.global_batch_sequences
    return round((spec.num_epochs or 1) * num_rows[0] * sum(shares) / shares[0])
