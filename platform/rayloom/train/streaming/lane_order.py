"""The row at each position of a run over a corpus that is streamed: a worker reads few shards at a time.

An epoch's shards stand in a line, in an order drawn from the seed. The line is cut into lanes of equal length, and
micro-batch m of a step reads on in lane m modulo their number. Workers take them in turn, so N workers, where N
divides the number of lanes, each read their own lanes and no other. Inside a lane the rows of one window after another
are shuffled. As in `sample_order`, a row depends on (seed, epoch, position) only: any number of workers trains on the
same rows in the same order, and goes on anywhere.

A lane begins in the middle of a shard, which two lanes then read: with L lanes S shards cost S + L - 1 reads, which
`lanes_for` keeps below 1.125 S. Each lane of a worker holds the shards of a window and those of the next one. For 10 TB
of text (2.5e12 tokens in 50,000 shards of 100 MB), 512 micro-batches a step and 64 workers, a worker has 8 lanes and at
most 40 shards or 4 GB; 50,511 shards are read an epoch, two files each.

Shapes: N positions asked for; S shards; L lanes.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayloom.train.loop.sample_order import Integers, permuted

SHARDS_A_LANE = 8
"""Fewest shards of a lane, so that few are read by two."""
SHARDS_HELD_A_LANE = 5
"""A window has the rows of a mean shard and touches three shards at most if they are alike; the next one touches two
more."""


def lanes_for(micro_batches_a_step: int, num_shards: int) -> int:
    """The most lanes that divide a step's micro-batches and have `SHARDS_A_LANE` shards each; one if there are few."""
    most = max(1, num_shards // SHARDS_A_LANE)
    return max(lanes for lanes in range(1, min(most, micro_batches_a_step) + 1) if micro_batches_a_step % lanes == 0)


@dataclass(frozen=True)
class LaneOrder:
    """The order of one run's rows. Rows are numbered through all shards, in the order of the corpus."""

    rows_of_shards: tuple[int, ...]
    num_lanes: int
    lane_rows: int
    """Positions one after the other that one lane gives: the rows of a micro-batch."""
    seed: int

    @functools.cached_property
    def num_rows(self) -> int:
        return sum(self.rows_of_shards)

    @functools.cached_property
    def window_rows(self) -> int:
        return max(1, -(-self.num_rows // len(self.rows_of_shards)))

    def rows(self, positions: Integers) -> Integers:
        """(N,) the row at each position of the run."""
        epochs, found = positions // self.num_rows, np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            found[here] = self._of_epoch(positions[here], epoch)
        return found

    def lanes_of_worker(self, num_workers: int) -> int:
        """How many lanes one of so many workers reads."""
        return self.num_lanes // math.gcd(num_workers, self.num_lanes)

    def _of_epoch(self, positions: Integers, epoch: int) -> Integers:
        begin, end = epoch * self.num_rows, (epoch + 1) * self.num_rows
        lengths = self._before(end) - self._before(begin)
        starts = np.cumsum(lengths) - lengths
        lanes = positions // self.lane_rows % self.num_lanes
        indices = self._before(positions, lanes) - self._before(begin)[lanes]
        windows, places = np.divmod(indices, self.window_rows)
        shuffled = np.empty_like(places)
        for lane, window in np.unique(np.stack([lanes, windows]), axis=1).T.tolist():
            here = (lanes == lane) & (windows == window)
            size = min(self.window_rows, int(lengths[lane]) - window * self.window_rows)
            shuffled[here] = permuted(places[here], size, self.seed, epoch, lane, window)
        return self._on_line(starts[lanes] + windows * self.window_rows + shuffled, epoch)

    def _before(self, positions: Integers | int, lanes: Integers | None = None) -> Integers:
        """How many earlier positions of the run are in the lanes; by default in each of the L."""
        lanes = np.arange(self.num_lanes) if lanes is None else lanes
        rounds, rest = np.divmod(positions, self.num_lanes * self.lane_rows)
        found: Integers = rounds * self.lane_rows + np.clip(rest - lanes * self.lane_rows, 0, self.lane_rows)
        return found

    def _on_line(self, places: Integers, epoch: int) -> Integers:
        shards, ends, first_rows = _line(self.rows_of_shards, self.seed, epoch)
        at = np.searchsorted(ends, places, side="right")
        sizes = np.asarray(self.rows_of_shards, np.int64)[shards]
        found: Integers = first_rows[shards[at]] + places - (ends - sizes)[at]
        return found


def lane_order(
    rows_of_shards: tuple[int, ...], global_batch_sequences: int, micro_batch_sequences: int, seed: int
) -> LaneOrder:
    """The order of a run with these sizes of the spec."""
    lanes = lanes_for(global_batch_sequences // micro_batch_sequences, len(rows_of_shards))
    return LaneOrder(rows_of_shards, lanes, micro_batch_sequences, seed)


@functools.lru_cache(maxsize=2)
def _line(rows_of_shards: tuple[int, ...], seed: int, epoch: int) -> tuple[Integers, Integers, NDArray[np.int64]]:
    """(S,) the shards in the epoch's order, (S,) where each ends on the line, (S,) the first row of each shard."""
    sizes = np.asarray(rows_of_shards, np.int64)
    shards = permuted(np.arange(len(sizes)), len(sizes), seed, epoch)
    return shards, np.cumsum(sizes[shards]), np.cumsum(sizes) - sizes
