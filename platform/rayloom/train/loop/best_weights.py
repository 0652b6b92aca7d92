"""The best weights so far, in the form in which a result is published."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from rayloom.artifacts.durable import appearing
from rayloom.artifacts.work_copy import WorkCopy


class BestWeights:
    """Folders `step-N` under one folder. A checkpoint may still mean an older one, so pruning is told what to keep.

    Only the first worker writes and reads them. `copy`: the copy of `folder` in the store, where workers share no disk.
    """

    def __init__(self, folder: Path, copy: WorkCopy | None = None) -> None:
        self.folder, self._copy = folder, copy
        if copy is not None:
            copy.replace(folder.name)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """`write` fills a folder, which then appears at once."""
        with appearing(self.path(step), single_writer=True) as unfinished:
            write(unfinished)
        if self._copy is not None:
            self._copy.put(f"{self.folder.name}/{self.path(step).name}")

    def prune(self, keep: Collection[int | None]) -> None:
        kept = {self.path(step) for step in keep if step is not None}
        for folder in self.folder.glob("step-*"):
            if folder not in kept:
                shutil.rmtree(folder)
                if self._copy is not None:
                    self._copy.remove(f"{self.folder.name}/{folder.name}")
