"""One training run as plain values: the input of the training loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rayloom.artifacts.work_copy import WorkCopy
from rayloom.specs.train import TrainSpec

if TYPE_CHECKING:
    from rayloom.models.responders.subject import Subject  # loads torch


@dataclass(frozen=True)
class TrainJob:
    """A training run. Paths are absolute; workers without a shared disk use their node's (`prepare.on_this_node`)."""

    spec: TrainSpec
    base: Path | None
    """Folder of the model to continue from."""
    tokenizer: Path
    """Folder of the tokenizer, which is saved with the result."""
    train: tuple[Path, ...]
    """Folders of rows to train on."""
    shares: tuple[float, ...]
    """Each folder's share of the rows."""
    heldout: dict[str, Path]
    """Folders of held-out rows, by name; early stopping uses the first."""
    work: Path
    """Folder of checkpoints and logs, from which a killed run resumes."""
    out: Path
    """Folder of the finished model."""

    num_rows: int
    """Rows of the whole run; the last step may have fewer than the others."""
    micro_batch_sequences: int
    """The spec's value, or less after running out of memory."""
    retry_after_steps: int | None = None
    """Steps after which the spec's micro-batch size is tried again, if the current one is smaller."""
    copy: WorkCopy | None = None
    """Copy of `work` in the store, if workers do not share a disk."""
    rows: WorkCopy | None = None
    """Copy of the folder with the prepared rows, if it is not `copy`."""
    teacher: Subject | None = None
    """The model whose distributions are learned too."""
    start: Path | None = None
    """Folder of the adapter that is trained on."""
    records: dict[Path, Path] = field(default_factory=dict)
    """Where what the teacher thinks of each folder of rows is kept, if it is computed once."""
    earlier: Path | None = None
    """Folder of the adapter that stays frozen below the one in training."""

    @property
    def num_steps(self) -> int:
        return -(-self.num_rows // self.spec.rows_per_step)

    @property
    def num_sequences(self) -> int:
        """Rows that are computed: those of data, or for a policy the answers to its prompts."""
        return self.num_rows * (1 if self.spec.policy is None else self.spec.policy.group_size)

    @property
    def checkpoints(self) -> Path:
        return self.work / "checkpoints"

    @property
    def log(self) -> Path:
        return self.work / "metrics.jsonl"

    @property
    def finished(self) -> Path:
        """File that exists once training is done and `out` is complete."""
        return self.work / "finished"

    @property
    def best(self) -> Path:
        """Folder of the best weights so far, with early stopping."""
        return self.work / "best"


def rows_of_run(spec: TrainSpec, num_rows: Sequence[int], shares: Sequence[float]) -> int:
    """Rows of a run: steps × batch size, or the epochs of the first data set plus the other data sets' shares."""
    if spec.num_steps is not None:
        return spec.num_steps * spec.rows_per_step
    return round((spec.num_epochs or 1) * num_rows[0] * sum(shares) / shares[0])
