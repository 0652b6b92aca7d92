"""The chunks of a job as one array, and groups of consecutive chunks: the units of the passes after judging."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.data.sources.chunks import ChunkName

CHUNK = np.dtype(
    [
        ("file", "<u4"), ("number", "<u4"), ("first_id", "<u8"),
        ("rejects", "<u4"), ("hits", "<u4"), ("unreadable", "<u4"),
    ]
)  # fmt: skip
"""A chunk, the smallest id that can be in it, and the bytes that judging wrote about its rows for people to read."""
LEAST_GROUPS = 256
MAX_CHUNKS_PER_GROUP = 64


@dataclass(frozen=True)
class ChunkTable:
    """Chunks in the order of their documents' ids. 32 bytes each: 10 TB of text in chunks of 4 MB take 80 MB."""

    chunks: NDArray[Any]

    def __len__(self) -> int:
        return len(self.chunks)

    def name(self, chunk: int) -> str:
        return str(ChunkName(int(self.chunks["file"][chunk]), int(self.chunks["number"][chunk])))

    def file(self, chunk: int) -> int:
        """The index of the file in which the chunk begins."""
        return int(self.chunks["file"][chunk])

    def id_range(self, chunk: int) -> tuple[int, int]:
        """The ids of the chunk's documents lie from the first to below the second."""
        ids = self.chunks["first_id"]
        return int(ids[chunk]), int(ids[chunk + 1]) if chunk + 1 < len(ids) else (1 << 64) - 1

    @functools.cached_property
    def groups(self) -> tuple[range, ...]:
        """Runs of consecutive chunks, the work of one task: single chunks at first, up to 64 of them in large jobs."""
        size = max(1, min(MAX_CHUNKS_PER_GROUP, len(self) // LEAST_GROUPS))
        return tuple(range(begin, min(begin + size, len(self))) for begin in range(0, len(self), size))

    def group_of(self, chunk: int) -> int:
        return chunk // len(self.groups[0])
