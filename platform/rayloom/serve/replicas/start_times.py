"""How long the phases of a replica's start took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class StartTimes:
    """Seconds of each phase, one after another."""

    process: float
    """Until Ray's worker process began to make the replica."""
    imports: float
    """Of the replica's own process. Beside them the model's files come onto this node."""
    files: float
    """Until these were here."""
    engine: float
    """Until the engine's processes had begun; also until they had read the weights, where `weights` is None."""
    weights: float | None
    """Reading them into memory. None if it was printed elsewhere."""
    graphs: float
    """Profiling, the cache's memory, compiling, and capturing CUDA graphs."""
    compiling: float
    """Of `graphs`: torch.compile, next to nothing if it was found in the node's cache. vLLM tells it on GPUs only."""
    answer: float

    @classmethod
    def of(
        cls, measured: Mapping[str, float], weights: float | None, graphs: float | None, compiling: float
    ) -> StartTimes:
        """`measured`: the phases that the replica sees; `engine` is there all that the engine did.

        The rest is what the engine printed.
        """
        engine = measured["engine"] - (weights or 0) - (graphs or 0)
        return cls(
            measured["process"], measured["imports"], measured["files"], engine, weights, graphs or 0, compiling,
            measured["first answer"],
        )  # fmt: skip

    @property
    def total(self) -> float:
        phases = (self.process, self.imports, self.files, self.engine, self.weights, self.graphs, self.answer)
        return sum(seconds or 0 for seconds in phases)

    def __str__(self) -> str:
        """`started in 41.2 s: process 3.0, imports 9.0, files 0.1, …`."""
        begun = "engine's processes" if self.weights is not None else "engine's processes and weights"
        weights = [] if self.weights is None else [f"weights {self.weights:.1f}"]
        compiling = f" (compiling {self.compiling:.1f})" if self.compiling else ""
        phases = [
            f"process {self.process:.1f}", f"imports {self.imports:.1f}", f"files {self.files:.1f}",
            f"{begun} {self.engine:.1f}", *weights, f"graphs {self.graphs:.1f}{compiling}",
            f"first answer {self.answer:.1f}",
        ]  # fmt: skip
        return f"started in {self.total:.1f} s: {', '.join(phases)}"


def seconds_of_this_process() -> float:
    """Since it began."""
    import psutil

    return time.time() - psutil.Process().create_time()
