"""Batches, made ahead of the training by a thread: which rows a worker computes at a step, and as what tensors."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from rayloom.train.loop.sample_order import Source, located
from rayloom.train.objectives.objective import Objective, StoredRows, TrainBatch

AHEAD_STEPS = 3
TRAINING, MEASURING = 0, 1
"""Streams of random choices: what is hidden of held-out rows has nothing to do with what is hidden in training."""


@dataclass(frozen=True)
class RunRows:
    """What a run reads: data sets of rows, how they are mixed, and how they are cut into steps."""

    objective: Objective
    shards: Sequence[StoredRows]
    shares: Sequence[float]
    seed: int
    num_rows: int
    """Rows in all of the run; the last step's batch may be smaller."""
    global_batch_sequences: int

    @property
    def num_steps(self) -> int:
        return -(-self.num_rows // self.global_batch_sequences)

    def of_step(self, step: int) -> list[tuple[int, int]]:
        """(source, row) of every row of the step's global batch, the same on every worker."""
        begin = step * self.global_batch_sequences
        positions = np.arange(begin, min(begin + self.global_batch_sequences, self.num_rows))
        sources = [Source(len(s), share) for s, share in zip(self.shards, self.shares, strict=True)]
        chosen, rows = located(positions, sources, self.seed)
        return list(zip(chosen.tolist(), rows.tolist(), strict=True))

    def batch(self, places: Sequence[tuple[int, int]], position: int) -> TrainBatch:
        """`position`: place of the first row in the run, from which what is hidden of it follows."""
        rows = [self.shards[source].row(row) for source, row in places]
        return self.objective.batch(rows, [(self.seed, TRAINING, position + index) for index in range(len(rows))])


def micro_batches(
    rows: RunRows, step: int, micro_batch_sequences: int, rank: int, num_workers: int
) -> list[TrainBatch]:
    """This worker's micro-batches of a step; every worker has equally many.

    Which rows make up a micro-batch does not depend on the number of workers; workers take them in turn. Where they do
    not come out even, a worker gets a row a second time without labels, which trains nothing.
    """
    places, begin = rows.of_step(step), step * rows.global_batch_sequences
    starts = range(0, len(places), micro_batch_sequences)
    batches = [rows.batch(places[i : i + micro_batch_sequences], begin + i) for i in starts[rank::num_workers]]
    missing = -(-len(starts) // num_workers) - len(batches)
    return batches + [rows.batch(places[:1], begin).without_labels()] * missing


class Feed:
    """Hands out each step's micro-batches in order, a few steps ahead of the training."""

    def __init__(self, rows: RunRows, first_step: int, micro_batch_sequences: int, rank: int, num_workers: int) -> None:
        self._made: queue.Queue[list[TrainBatch] | BaseException] = queue.Queue(AHEAD_STEPS)
        self._stopped = threading.Event()
        self._work = (rows, first_step, micro_batch_sequences, rank, num_workers)
        self._thread = threading.Thread(target=self._make, name="feed", daemon=True)
        self.wait_seconds = 0.0
        """How long the training waited for data."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def next(self) -> list[TrainBatch]:
        started = time.perf_counter()
        made = self._made.get()
        self.wait_seconds += time.perf_counter() - started
        if isinstance(made, BaseException):
            raise made
        return made

    def _make(self) -> None:
        rows, step, micro_batch_sequences, rank, num_workers = self._work
        try:
            while step < rows.num_steps and not self._stopped.is_set():
                self._put(micro_batches(rows, step, micro_batch_sequences, rank, num_workers))
                step += 1
        except Exception as error:  # noqa: BLE001 - raised again where the training takes its next batch
            self._put(error)

    def _put(self, made: list[TrainBatch] | BaseException) -> None:
        while not self._stopped.is_set():
            try:
                self._made.put(made, timeout=0.1)
                return
            except queue.Full:
                continue
