"""How a job's workers are started again: how often that happened, and how many sequences they compute at once.

Memory that ran out may only have been taken by another process for a moment, and a smaller micro-batch is slower for as
long as it stays. So the spec's own micro-batch is tried again: by every new command, and within one after some steps.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Self

from rayloom.artifacts.durable import write_durably
from rayloom.train.failures import Restart
from rayloom.train.job import TrainJob

NOTE_NAME = "micro_batch.json"
RETRY_AFTER_STEPS = 100
"""With a smaller micro-batch, before the spec's own is tried again; twice as many after each time that it failed."""


@dataclass
class Attempts:
    """The starts of one command. The job that it holds is the one to start next."""

    job: TrainJob
    num_restarts: int = 0
    num_out_of_memory: int = 0

    @classmethod
    def first(cls, job: TrainJob) -> Self:
        return cls(replace(job, micro_batch_sequences=job.spec.micro_batch_sequences))

    def restart(self, decision: Restart, is_out_of_memory: bool) -> None:
        """Makes `job` the one that the decision asks for."""
        self.num_restarts += 1
        self.num_out_of_memory += is_out_of_memory
        is_smaller = decision.micro_batch_sequences < self.job.spec.micro_batch_sequences
        wait = RETRY_AFTER_STEPS << max(0, self.num_out_of_memory - 1) if is_smaller else None
        self.job = replace(self.job, micro_batch_sequences=decision.micro_batch_sequences, retry_after_steps=wait)
        note_micro_batch(self.job, decision.micro_batch_sequences)


def note_micro_batch(job: TrainJob, sequences: int) -> None:
    """Writes down what the workers compute at once, so that whoever starts them knows what ran out of memory."""
    write_durably(job.work / NOTE_NAME, json.dumps({"micro_batch_sequences": sequences}))
    if job.copy is not None:
        job.copy.put(NOTE_NAME)


def noted_micro_batch(job: TrainJob) -> int:
    """What the workers computed at once when last noted; at first that of the spec."""
    if job.copy is not None:
        job.copy.replace(NOTE_NAME)
    file = job.work / NOTE_NAME
    noted = json.loads(file.read_text()) if file.exists() else {}
    return int(noted.get("micro_batch_sequences", job.spec.micro_batch_sequences))
