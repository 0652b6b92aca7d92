"""Prefetches micro-batches in a thread: which rows a worker computes at each step, as tensors."""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from rayloom.score.parallel.axis import Axis
from rayloom.train.loop.sample_order import Source, located
from rayloom.train.objectives.objective import Objective, StoredRows, TrainBatch
from rayloom.train.streaming.lane_order import SHARDS_HELD_A_LANE, LaneOrder, lane_order
from rayloom.train.streaming.streamed_rows import StreamedRows

AHEAD_STEPS = 3
TRAINING, MEASURING = 0, 1
"""Random streams for training and for held-out rows, so that their masks are independent."""


@dataclass(frozen=True)
class RunRows:
    """The training rows of a run: data sets, the shares in which they are mixed, and the batch size."""

    objective: Objective
    shards: Sequence[StoredRows]
    shares: Sequence[float]
    seed: int
    num_rows: int
    """Rows of the whole run; the last step's batch may be smaller."""
    global_batch_sequences: int
    lane_rows: int = 1
    """For a streamed corpus: the spec's micro-batch size, which its order depends on."""

    @property
    def num_steps(self) -> int:
        return -(-self.num_rows // self.global_batch_sequences)

    def of_step(self, step: int) -> list[tuple[int, int]]:
        """(source, row) of every row of the step's global batch, the same on every worker."""
        begin = step * self.global_batch_sequences
        positions = np.arange(begin, min(begin + self.global_batch_sequences, self.num_rows))
        if self.lanes is not None:
            return [(0, row) for row in self.lanes.rows(positions).tolist()]
        sources = [Source(len(s), share) for s, share in zip(self.shards, self.shares, strict=True)]
        chosen, rows = located(positions, sources, self.seed)
        return list(zip(chosen.tolist(), rows.tolist(), strict=True))

    @functools.cached_property
    def lanes(self) -> LaneOrder | None:
        """The order of a streamed corpus; None for rows that are on the disk."""
        (first, *_) = self.shards
        if not isinstance(first, StreamedRows):
            return None
        return lane_order(first.rows_of_shards, self.global_batch_sequences, self.lane_rows, self.seed)

    def prepare(self, step: int, micro_batch_sequences: int, workers: Axis) -> None:
        """Begins to fetch what a worker will need of a streamed corpus a quarter of a window after this step."""
        lanes, (first, *_) = self.lanes, self.shards
        if lanes is None or not isinstance(first, StreamedRows):
            return
        # Where memory ran out, a lane's rows are cut into more micro-batches, of which a worker takes those in turn.
        cuts = -(-self.lane_rows // micro_batch_sequences)
        first.hold_at_most(SHARDS_HELD_A_LANE * min(lanes.num_lanes, lanes.lanes_of_worker(workers.size) * cuts))
        rows_a_step = max(1, self.global_batch_sequences // lanes.num_lanes)
        later = step + AHEAD_STEPS + lanes.window_rows // (4 * rows_a_step)
        if later < self.num_steps:
            places = self.of_step(later)
            starts = range(0, len(places), micro_batch_sequences)[workers.rank :: workers.size]
            first.want(row for i in starts for _, row in places[i : i + micro_batch_sequences])

    def close(self) -> None:
        """Removes what is on this node's disk for a streamed corpus."""
        for shards in self.shards:
            if isinstance(shards, StreamedRows):
                shards.close()

    def batch(self, places: Sequence[tuple[int, int]], position: int) -> TrainBatch:
        """These rows as a batch. `position`: that of the first row in the run, which seeds the rows' random choices."""
        rows = [self.shards[source].row(row) for source, row in places]
        return self.objective.batch(rows, [(self.seed, TRAINING, position + index) for index in range(len(rows))])


def micro_batches(rows: RunRows, step: int, micro_batch_sequences: int, workers: Axis) -> list[TrainBatch]:
    """This worker's micro-batches of a step; all workers get equally many.

    The rows of a micro-batch do not depend on the number of workers, which take micro-batches in turn. A worker that
    would have fewer gets a row without labels, which has no effect on training.
    """
    places, begin = rows.of_step(step), step * rows.global_batch_sequences
    starts = range(0, len(places), micro_batch_sequences)
    batches = [
        rows.batch(places[i : i + micro_batch_sequences], begin + i) for i in starts[workers.rank :: workers.size]
    ]
    missing = -(-len(starts) // workers.size) - len(batches)
    # Made only where one is missing: of a streamed corpus, its shard would be fetched.
    return batches + [rows.batch(places[:1], begin).without_labels() for _ in range(missing)]


class Feed:
    """Gives each step's micro-batches in order, and prepares those of the next AHEAD_STEPS steps in a thread."""

    def __init__(self, rows: RunRows, first_step: int, micro_batch_sequences: int, workers: Axis) -> None:
        """`workers`: this worker's place among those that compute other rows."""
        self._made: queue.Queue[list[TrainBatch] | BaseException] = queue.Queue(AHEAD_STEPS)
        self._stopped = threading.Event()
        self._work = (rows, first_step, micro_batch_sequences, workers)
        self._thread = threading.Thread(target=self._make, name="feed", daemon=True)
        self.wait_seconds = 0.0
        """Seconds that training has waited for data."""

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

    def noted(self) -> dict[str, float]:
        """What the step's log gets beside the loss, once the step's gradients are there."""
        return {}

    def _make(self) -> None:
        rows, step, micro_batch_sequences, workers = self._work
        try:
            while step < rows.num_steps and not self._stopped.is_set():
                rows.prepare(step, micro_batch_sequences, workers)
                self._put(micro_batches(rows, step, micro_batch_sequences, workers))
                step += 1
        except Exception as error:  # noqa: BLE001 - raised again by `next`
            self._put(error)

    def _put(self, made: list[TrainBatch] | BaseException) -> None:
        while not self._stopped.is_set():
            try:
                self._made.put(made, timeout=0.1)
                return
            except queue.Full:
                continue
