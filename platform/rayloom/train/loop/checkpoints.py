"""Checkpoints of a run: written asynchronously, committed once all workers' files are written, verified before use.

    checkpoints/step-00000120/rank-00000.safetensors …   each worker's fragments
                              state.json                 the run's TrainState
                              checkpoint.json            every file's size and digest; written last

A folder without `checkpoint.json` is not a checkpoint. One thread per worker writes while training goes on. If nodes
share no disk, each thread also copies its files to the store; the checkpoint is committed once all of them are there,
and the run can resume from it on any nodes. The best weights of early stopping are kept here too.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rayloom.artifacts.durable import appearing, flush, write_durably
from rayloom.artifacts.manifest import sha256_of
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.engine_errors import is_unreachable_store
from rayloom.errors import ResourceError
from rayloom.train.engines.fragments import Fragment, FragmentReader, write_fragments
from rayloom.train.process_group import Group
from rayloom.train.state import TrainState

MANIFEST_NAME = "checkpoint.json"
STATE_NAME = "state.json"
LOG_NAME = "metrics.jsonl"


@dataclass(frozen=True)
class Pending:
    """A checkpoint that is being written."""

    step: int
    folder: Path
    written: Future[list[dict[str, Any]] | str]
    """Name, size and digest of each file that this worker wrote, or the reason why it could not."""


class Checkpoints:
    """A run's checkpoints. All workers make the same calls.

    `copy`: the folder's copy in the store if workers do not share a disk; else None.
    """

    def __init__(
        self, folder: Path, keep: int, group: Group, say: Callable[[str], None], copy: WorkCopy | None = None
    ) -> None:
        self.folder, self.keep, self.group, self._say, self._copy = folder, keep, group, say, copy
        self.stall_seconds = 0.0
        """Seconds that training was blocked by checkpoints."""
        self.failed_in_a_row = 0
        self._pending: Pending | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    # -- writing ---------------------------------------------------------------------------------------------------

    def save(self, state: TrainState, fragments: Iterable[Fragment]) -> None:
        """Copies everything to memory now and writes it in the background; `settle` or `finish` commits it."""
        started = time.perf_counter()
        self.finish()
        folder = self.folder / f"step-{state.step:08d}"
        copies = [fragment.copied() for fragment in fragments]
        text = json.dumps(state.as_json())
        self._pending = Pending(state.step, folder, self._writer.submit(self._write, folder, copies, text))
        self.stall_seconds += time.perf_counter() - started

    def _write(self, folder: Path, copies: list[Fragment], state: str) -> list[dict[str, Any]] | str:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MANIFEST_NAME).unlink(missing_ok=True)
            written = [folder / f"rank-{self.group.rank:05d}.safetensors"]
            write_fragments(written[0], copies)
            if self.group.is_first:
                (folder / STATE_NAME).write_text(state)
                written.append(folder / STATE_NAME)
            for file in written:
                flush(file)
            self._copy_to_store(written)
            return [{"path": f.name, "size_bytes": f.stat().st_size, "sha256": sha256_of(f)} for f in written]
        except Exception as error:
            if isinstance(error, OSError | SafetensorError) or is_unreachable_store(error):
                return str(error)
            raise

    def _copy_to_store(self, written: list[Path]) -> None:
        if self._copy is None:
            return
        if self.group.is_first:
            # An older checkpoint of this step must not be valid while its files are replaced.
            self._copy.remove(self._name(written[0].with_name(MANIFEST_NAME)))
            self._copy.put(LOG_NAME)
        for file in written:
            self._copy.put(self._name(file))

    @property
    def is_written(self) -> bool:
        """Whether this worker has finished writing a checkpoint that is not committed yet."""
        return self._pending is not None and self._pending.written.done()

    @property
    def has_failed(self) -> bool:
        """Whether this worker could not write its part."""
        return self._pending is not None and self.is_written and isinstance(self._pending.written.result(), str)

    def settle(self, num_failed: int) -> None:
        """Commits the pending checkpoint, or discards it if a worker failed. Call it once `is_written` on all workers.

        Raises ResourceError if it is the second in a row that could not be written.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        part = pending.written.result()
        if not num_failed:
            self.failed_in_a_row = 0
            files = [file for part in self.group.gathered(part) for file in part]
            if self.group.is_first:
                self._commit(pending.folder, files)
            elif self._copy is not None:
                self._keep_here(self.keep)
            return
        reason = part if isinstance(part, str) else ""
        self.failed_in_a_row += 1
        self._say(f"the checkpoint of step {pending.step} could not be written: {reason or 'on another worker'}")
        if self.group.is_first:
            shutil.rmtree(pending.folder, ignore_errors=True)
            self._keep_newest(1)
        elif self._copy is not None:
            shutil.rmtree(pending.folder, ignore_errors=True)
        if self.failed_in_a_row > 1:
            fix = "Make room there, or set checkpoints.keep: 1; the same command then continues at its last checkpoint."
            raise ResourceError(
                f"Two checkpoints in a row could not be written: {reason}", where=str(self.folder), fix=fix
            )

    def finish(self) -> None:
        """Waits until all workers have written the pending checkpoint, and settles it."""
        if self._pending is not None:
            self._pending.written.result()
            (num_failed,) = self.group.agreed(self.has_failed)
            self.settle(int(num_failed))

    def close(self) -> None:
        """Waits for the writer thread. A pending checkpoint is not committed."""
        self._writer.shutdown(wait=True)

    def _commit(self, folder: Path, files: list[dict[str, Any]]) -> None:
        facts = {"format": 1, "num_workers": self.group.num_workers, "files": files}
        write_durably(folder / MANIFEST_NAME, json.dumps(facts, indent=1))
        if self._copy is not None:
            self._copy.put(self._name(folder / MANIFEST_NAME))
        self._keep_newest(self.keep)

    def _keep_newest(self, count: int) -> None:
        for old in list(newest_first(self.folder))[count:]:
            (old / MANIFEST_NAME).unlink()
            # A manifest that stays in the store needs its files: a worker that resumes reads them.
            if self._copy is not None and self._copy.discard(self._name(old / MANIFEST_NAME)):
                self._copy.discard(self._name(old))
            shutil.rmtree(old)

    def _keep_here(self, count: int) -> None:
        """Keeps the newest `count` folders on a node that has no manifests, which only the first worker writes."""
        for old in sorted(self.folder.glob("step-*"), reverse=True)[count:]:
            shutil.rmtree(old, ignore_errors=True)  # other workers of this node do the same

    def _name(self, path: Path) -> str:
        """The path relative to the work folder, as in its copy in the store."""
        return path.relative_to(self.folder.parent).as_posix()

    # -- reading ---------------------------------------------------------------------------------------------------

    def states(self) -> list[TrainState]:
        """The TrainState of each checkpoint, newest first."""
        return [_state(folder) for folder in newest_first(self.folder)]

    def newest_sound(self) -> Path | None:
        """The newest checkpoint whose files all match their digests, or None. Damaged ones are reported and skipped."""
        if self._copy is not None and self.group.is_first:
            self._as_in_store(self._copy)
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

    def _as_in_store(self, copy: WorkCopy) -> None:
        """Makes this node's checkpoints those committed in the store: manifests and states, without weights."""
        in_store = [name for name in copy.sizes(self.folder.name) if name.endswith(f"/{MANIFEST_NAME}")]
        folders = [self.folder / Path(name).parent.name for name in in_store]
        for folder in newest_first(self.folder):
            if folder not in folders:
                shutil.rmtree(folder)
        for folder in folders:
            copy.replace(self._name(folder / MANIFEST_NAME))
            copy.replace(self._name(folder / STATE_NAME))

    def _damaged(self, folder: Path) -> list[str]:
        """Files that do not match their digests, among this worker's share of them."""
        if self._copy is not None:
            self._copy.replace(self._name(folder / MANIFEST_NAME))
            digests = {self._name(folder / file["path"]): file["sha256"] for file in _manifest(folder)["files"]}
            return self._copy.fetch_exactly(digests)
        files = _manifest(folder)["files"]
        mine = files[self.group.rank :: self.group.num_workers]
        return [file["path"] for file in mine if not _is_sound(folder / file["path"], file)]


def load(folder: Path) -> tuple[TrainState, FragmentReader]:
    """The state of a checkpoint, and a reader of its weights and optimiser state."""
    files = [folder / file["path"] for file in _manifest(folder)["files"]]
    return _state(folder), FragmentReader([file for file in files if file.suffix == ".safetensors"])


def newest_first(checkpoints: Path) -> Iterator[Path]:
    """The committed checkpoints in a folder, damaged ones included."""
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


# The best weights so far, for early stopping, in the format of the published result.


class BestWeights:
    """Saved weights in folders `step-N`. Only the first worker writes and reads them.

    Older checkpoints may refer to older best weights, so the caller says which to keep. `copy`: the folder's copy in
    the store if workers do not share a disk.
    """

    def __init__(self, folder: Path, copy: WorkCopy | None = None) -> None:
        self.folder, self._copy = folder, copy
        if copy is not None:
            copy.replace(folder.name)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Saves atomically: `write` fills a temporary folder, which is then renamed."""
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
                    self._copy.discard(f"{self.folder.name}/{folder.name}")
