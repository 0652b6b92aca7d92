"""The best weights so far, in the form in which a result is published."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from rayloom.artifacts.durable import appearing


class BestWeights:
    """Folders `step-N` under one folder. A checkpoint may still mean an older one, so pruning is told what to keep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """`write` fills a folder, which then appears at once."""
        with appearing(self.path(step), single_writer=True) as unfinished:
            write(unfinished)

    def prune(self, keep: Collection[int | None]) -> None:
        kept = {self.path(step) for step in keep if step is not None}
        for folder in self.folder.glob("step-*"):
            if folder not in kept:
                shutil.rmtree(folder)
