"""Files of the artifact that tasks write: into its folder in a local store, straight into the bucket otherwise."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayloom.artifacts.manifest import file_entries
from rayloom.artifacts.transfer import upload
from rayloom.artifacts.work_copy import WorkCopy

RESULT_FOLDER = "result"
"""In the work folder of the bucket; see `Outcome.stored`."""


@dataclass(frozen=True)
class ResultFiles:
    """The files of the artifact of the job with this work folder."""

    copy: WorkCopy

    @property
    def in_bucket(self) -> bool:
        return self.copy.is_needed

    def write(self, write: Callable[[Path], Any]) -> dict[str, Any]:
        """Makes files of the artifact: what `write` puts into the folder that it gets.

        Returns, as `stored`, the entries of the files that are in the bucket now (see `Outcome.stored`).
        """
        if not self.in_bucket:
            write(self.copy.folder.parent)
            return {"stored": []}
        filesystem = self.copy.store.filesystem
        with tempfile.TemporaryDirectory(prefix="rayloom-") as name:
            write(Path(name))
            entries = file_entries(Path(name))
            targets = {Path(name) / entry.path: f"{self.copy.root}/{RESULT_FOLDER}/{entry.path}" for entry in entries}
            for folder in {target.rpartition("/")[0] for target in targets.values()}:
                filesystem.makedirs(folder, exist_ok=True)
            upload(filesystem, list(targets.items()))
        return {"stored": [entry.model_dump() for entry in entries]}
