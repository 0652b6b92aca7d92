"""What earlier starts of a job's workers have taught, kept beside its checkpoints so that the next start knows it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rayloom.train.failures import Restart
from rayloom.train.job import TrainJob


@dataclass
class Attempts:
    """How often workers were started again, in this command, and how much they compute at once from now on."""

    file: Path
    micro_batch_sequences: int
    num_restarts: int = 0

    @classmethod
    def of(cls, job: TrainJob) -> Self:
        file = job.work / "attempts.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        return cls(file, known.get("micro_batch_sequences", job.micro_batch_sequences))

    def restart(self, decision: Restart) -> None:
        self.num_restarts += 1
        self.micro_batch_sequences = decision.micro_batch_sequences
        self.file.write_text(json.dumps({"micro_batch_sequences": self.micro_batch_sequences}))
