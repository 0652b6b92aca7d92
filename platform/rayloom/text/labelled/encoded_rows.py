"""Encoded rows of a task on disk, read by number without a scan.

A folder holds flat arrays of plain .npy, memory-mapped and never unpickled: `tokens`, `segments` and `targets` of all
rows one after the other, `rows` and `target_rows` where each row's part begins and the last ends; `index.json` comes
last, so that a folder without it is unfinished.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rayloom.errors import InputError
from rayloom.text.labelled.encoding import EncodedRow

INDEX_NAME = "index.json"
_ARRAYS = ("tokens", "segments", "targets", "rows", "target_rows")


def write_task_rows(rows: Sequence[EncodedRow], folder: Path, tokenizer_digest: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    empty = np.zeros(0, np.int64)
    arrays = {
        "tokens": np.concatenate([empty, *(row.tokens for row in rows)]).astype(np.int32),
        "segments": np.concatenate([empty, *(row.segments for row in rows)]).astype(np.uint8),
        "targets": np.concatenate([empty, *(row.targets for row in rows)]).astype(np.int32),
        "rows": np.cumsum([0, *(len(row.tokens) for row in rows)]),
        "target_rows": np.cumsum([0, *(len(row.targets) for row in rows)]),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    facts = {"format": 1, "tokenizer_digest": tokenizer_digest, "num_rows": len(rows)}
    (folder / INDEX_NAME).write_text(json.dumps(facts, indent=2) + "\n")


class TaskRows:
    """Reads such a folder. Raises InputError where it is none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            index = json.loads((directory / INDEX_NAME).read_text())
        except FileNotFoundError:
            fix = "Run the training job again; it encodes its rows first."
            raise InputError("There are no finished rows of a task here", where=str(directory), fix=fix) from None
        self.tokenizer_digest = str(index["tokenizer_digest"])
        loaded = {name: np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _ARRAYS}
        self._tokens, self._segments, self._targets = (loaded[name] for name in _ARRAYS[:3])
        self._rows, self._target_rows = loaded["rows"], loaded["target_rows"]

    def __len__(self) -> int:
        return len(self._rows) - 1

    @property
    def num_tokens(self) -> int:
        return int(self._rows[-1])

    def row(self, index: int) -> EncodedRow:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        part = slice(int(self._rows[index]), int(self._rows[index + 1]))
        targets = slice(int(self._target_rows[index]), int(self._target_rows[index + 1]))
        return EncodedRow(
            np.asarray(self._tokens[part], np.int64),
            np.asarray(self._segments[part], np.int64),
            np.asarray(self._targets[targets], np.int64),
        )
