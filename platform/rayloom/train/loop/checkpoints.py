"""Checkpoints of a run: written beside the training, committed when every worker's file is there, verified before use.

    checkpoints/step-00000120/rank-00000.safetensors …   what each worker kept
                              state.json                 where the run stood
                              checkpoint.json            every file's size and digest; written last

A folder without `checkpoint.json` is none. One thread per worker writes, so that training goes on meanwhile.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rayloom.artifacts.durable import flush, write_durably
from rayloom.artifacts.manifest import sha256_of
from rayloom.errors import ResourceError
from rayloom.train.engines.fragments import Fragment, FragmentReader, write_fragments
from rayloom.train.process_group import Group
from rayloom.train.state import TrainState

MANIFEST_NAME = "checkpoint.json"
STATE_NAME = "state.json"


@dataclass(frozen=True)
class Pending:
    """A checkpoint that is being written."""

    step: int
    folder: Path
    written: Future[str]
    """Nothing, or why this worker could not write its part."""


class Checkpoints:
    """The checkpoints under one folder that every worker sees. All workers make the same calls."""

    def __init__(self, folder: Path, keep: int, group: Group, say: Callable[[str], None]) -> None:
        self.folder, self.keep, self.group, self._say = folder, keep, group, say
        self.stall_seconds = 0.0
        """How long training stood still for checkpoints."""
        self.failed_in_a_row = 0
        self._pending: Pending | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    # -- writing ---------------------------------------------------------------------------------------------------

    def save(self, state: TrainState, fragments: Iterable[Fragment]) -> None:
        """Copies everything now and writes it in the background; `settle` or `finish` makes it count."""
        started = time.perf_counter()
        self.finish()
        folder = self.folder / f"step-{state.step:08d}"
        copies = [fragment.copied() for fragment in fragments]
        text = json.dumps(state.as_json())
        self._pending = Pending(state.step, folder, self._writer.submit(self._write, folder, copies, text))
        self.stall_seconds += time.perf_counter() - started

    def _write(self, folder: Path, copies: list[Fragment], state: str) -> str:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MANIFEST_NAME).unlink(missing_ok=True)
            name = f"rank-{self.group.rank:05d}"
            write_fragments(folder / f"{name}.safetensors", copies)
            written = [folder / f"{name}.safetensors"]
            if self.group.is_first:
                (folder / STATE_NAME).write_text(state)
                written.append(folder / STATE_NAME)
            for file in written:
                flush(file)
            entries = [{"path": f.name, "size_bytes": f.stat().st_size, "sha256": sha256_of(f)} for f in written]
            (folder / f"{name}.json").write_text(json.dumps(entries))
        except (OSError, SafetensorError) as error:
            return str(error)
        return ""

    @property
    def is_written(self) -> bool:
        """Whether this worker is done with a checkpoint that does not count yet."""
        return self._pending is not None and self._pending.written.done()

    @property
    def has_failed(self) -> bool:
        """Whether this worker could not write its part."""
        return self._pending is not None and self.is_written and self._pending.written.result() != ""

    def settle(self, num_failed: int) -> None:
        """Makes the pending checkpoint count, where no worker failed. Only when `is_written` holds on every worker.

        Raises ResourceError where it is the second in a row that could not be written.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        reason = pending.written.result()
        if not num_failed:
            self.failed_in_a_row = 0
            if self.group.is_first:
                self._commit(pending.folder)
            return
        self.failed_in_a_row += 1
        self._say(f"the checkpoint of step {pending.step} could not be written: {reason or 'on another worker'}")
        if self.group.is_first:
            shutil.rmtree(pending.folder, ignore_errors=True)
            self._keep_newest(1)
        if self.failed_in_a_row > 1:
            fix = "Make room there, or set checkpoints.keep: 1; the same command then continues at its last checkpoint."
            raise ResourceError(
                f"Two checkpoints in a row could not be written: {reason}", where=str(self.folder), fix=fix
            )

    def finish(self) -> None:
        """Waits until the pending checkpoint is written everywhere, and makes it count."""
        if self._pending is not None:
            self._pending.written.result()
            (num_failed,) = self.group.agreed(self.has_failed)
            self.settle(int(num_failed))

    def close(self) -> None:
        """Lets the writer end. What is pending does not count any more."""
        self._writer.shutdown(wait=True)

    def _commit(self, folder: Path) -> None:
        parts = [folder / f"rank-{rank:05d}.json" for rank in range(self.group.num_workers)]
        files = [entry for part in parts for entry in json.loads(part.read_text())]
        facts = {"format": 1, "num_workers": self.group.num_workers, "files": files}
        write_durably(folder / MANIFEST_NAME, json.dumps(facts, indent=1))
        self._keep_newest(self.keep)

    def _keep_newest(self, count: int) -> None:
        for old in list(newest_first(self.folder))[count:]:
            (old / MANIFEST_NAME).unlink()
            shutil.rmtree(old)

    # -- reading ---------------------------------------------------------------------------------------------------

    def states(self) -> list[TrainState]:
        """Where the run stood at each checkpoint."""
        return [_state(folder) for folder in newest_first(self.folder)]

    def newest_sound(self) -> Path | None:
        """The newest checkpoint whose every file has its digest; damaged ones are named and passed over."""
        names: list[str] = self.group.from_first([folder.name for folder in newest_first(self.folder)])
        for name in names:
            folder = self.folder / name
            damaged = self._damaged(folder)
            (num_damaged,) = self.group.agreed(float(len(damaged)))
            if not num_damaged:
                return folder
            said = f" ({', '.join(damaged)})" if damaged else ""
            self._say(f"the checkpoint of step {step_of(folder)} is damaged{said}; going back to the one before")
        return None

    def _damaged(self, folder: Path) -> list[str]:
        """Files that are not as they were written, among those that this worker looks at."""
        files = _manifest(folder)["files"]
        mine = files[self.group.rank :: self.group.num_workers]
        return [file["path"] for file in mine if not _is_sound(folder / file["path"], file)]


def load(folder: Path) -> tuple[TrainState, FragmentReader]:
    """Where the run stood, and a reader of its weights and optimiser state."""
    files = [folder / file["path"] for file in _manifest(folder)["files"]]
    return _state(folder), FragmentReader([file for file in files if file.suffix == ".safetensors"])


def newest_first(checkpoints: Path) -> Iterator[Path]:
    """The checkpoints in a folder that count, damaged ones among them."""
    for folder in sorted(checkpoints.glob("step-*"), reverse=True):
        if (folder / MANIFEST_NAME).exists():
            yield folder


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _state(folder: Path) -> TrainState:
    return TrainState.from_json(json.loads((folder / STATE_NAME).read_text()))


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / MANIFEST_NAME).read_text())
    return manifest


def _is_sound(path: Path, entry: dict[str, Any]) -> bool:
    return path.exists() and path.stat().st_size == entry["size_bytes"] and sha256_of(path) == entry["sha256"]
