"""A corpus of which a worker has only the shards on its disk that it is reading.

A folder of such rows holds `index.json` and `streamed.json`, which says in which artifact the shards are. A row never
reaches over the end of a shard: what is left there, less than a row, is not trained on.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rayloom.artifacts.durable import write_durably
from rayloom.artifacts.manifest import FileEntry
from rayloom.artifacts.node_cache import StreamedFiles, TakenFile
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.text.packed.shards import INDEX_NAME, SHARD_ARRAYS, Row, Shard, open_shard, read_index, row_of, shard_file

STREAMED_NAME = "streamed.json"
SHARDS_AT_FIRST = 2
FETCHES_AT_ONCE = 2


def is_streamed(folder: Path) -> bool:
    return (folder / STREAMED_NAME).exists()


def streamed_corpus(corpus: Artifact, split: str, folder: Path) -> Path:
    """The files of a corpus but its shards of `split`, on this node; `folder` gets what `StreamedRows` needs."""
    manifest = corpus.manifest
    if corpus.store.is_local:
        here = corpus.path
    else:
        kept = [file for file in manifest.files if not _is_shard(file, split)]
        here = corpus.store.streamed(manifest).keep(kept)
    said = {"store": corpus.store.uri, "name": manifest.name, "version": manifest.version, "split": split}
    write_durably(folder / INDEX_NAME, (here / split / INDEX_NAME).read_text())
    write_durably(folder / STREAMED_NAME, json.dumps(said))
    return here


def _is_shard(file: FileEntry, split: str) -> bool:
    return file.path.startswith(f"{split}/") and file.path.endswith(".npy")


@dataclass(frozen=True)
class _Held:
    """A shard that is open, and its files."""

    shard: Shard
    taken: tuple[TakenFile, ...]


class StreamedRows:
    """Rows by number, from shards that are fetched when a row of theirs is asked for, or before (`want`).

    Raises InputError if the folder is none of such rows, or if the corpus was packed into rows.
    """

    def __init__(self, folder: Path, sequence_length_tokens: int) -> None:
        self.directory, self.sequence_length = folder, sequence_length_tokens
        index, said = read_index(folder), json.loads((folder / STREAMED_NAME).read_text())
        if index["has_rows"]:
            fix = "Leave data.streamed out, or name a corpus made by a `clean` job."
            raise InputError("Rows that were packed before cannot be streamed", where=str(folder), fix=fix)
        self.vocabulary_size = int(index["vocabulary_size"])
        self.tokenizer_digest = str(index["tokenizer_digest"])
        self.num_tokens = sum(int(shard["num_tokens"]) for shard in index["shards"])
        self.num_documents = sum(int(shard["num_documents"]) for shard in index["shards"])
        self.rows_of_shards = tuple(int(shard["num_tokens"]) // sequence_length_tokens for shard in index["shards"])
        self._ends = np.cumsum(self.rows_of_shards)
        store = Store(said["store"])
        manifest = store.manifest(said["name"], said["version"])
        if manifest is None:
            what = f"This node does not see {said['name']}@{said['version']}"
            raise InputError(what, where=store.uri, fix="Use a store that every node reaches: s3://… or NFS.")
        self._entries = {file.path: file for file in manifest.files}
        self._split: str = said["split"]
        self.num_bytes = sum(file.size_bytes for file in manifest.files if _is_shard(file, self._split))
        self._source: StreamedFiles | Path = (
            Path(store.location(manifest.name, manifest.version)) if store.is_local else store.streamed(manifest)
        )
        self._most = SHARDS_AT_FIRST
        self._held: OrderedDict[int, Future[_Held]] = OrderedDict()
        self._lock = threading.Lock()
        self._fetching = ThreadPoolExecutor(FETCHES_AT_ONCE, "shards")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def hold_at_most(self, num_shards: int) -> None:
        """How many shards may be on this node's disk for this worker."""
        self._most = max(1, num_shards)

    def want(self, rows: Iterable[int]) -> None:
        """Begins to fetch the shards of rows that will be asked for soon."""
        for number in sorted({self._shard_of(row) for row in rows}):
            self._holding(number)

    def row(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = self._shard_of(index)
        shard = self._holding(number).result().shard
        begin = (index - int(self._ends[number]) + self.rows_of_shards[number]) * self.sequence_length
        return row_of([shard], 0, begin, begin + self.sequence_length)

    def close(self) -> None:
        """Gives all shards back."""
        self._fetching.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            held, self._held = self._held, OrderedDict()
        for future in held.values():
            if not future.cancelled() and future.exception() is None:
                self._give_back(future.result())

    def _shard_of(self, row: int) -> int:
        return int(np.searchsorted(self._ends, row, side="right"))

    def _holding(self, number: int) -> Future[_Held]:
        """The shard, or its fetching; the one used longest ago makes way for it."""
        done: list[Future[_Held]] = []
        with self._lock:
            if number not in self._held:
                for other in [n for n, future in self._held.items() if future.done()]:
                    if len(self._held) < self._most:
                        break
                    done.append(self._held.pop(other))
                self._held[number] = self._fetching.submit(self._fetched, number, done)
            self._held.move_to_end(number)
            return self._held[number]

    def _fetched(self, number: int, instead_of: list[Future[_Held]]) -> _Held:
        for future in instead_of:
            if future.exception() is None:
                self._give_back(future.result())
        files: dict[str, Path] = {}
        taken: list[TakenFile] = []
        for array in SHARD_ARRAYS:
            path = shard_file(Path(self._split), number, array).as_posix()
            if path not in self._entries:
                continue
            if isinstance(self._source, Path):
                files[array] = self._source / path
            else:
                taken.append(self._source.take(self._entries[path]))
                files[array] = taken[-1].path
        return _Held(open_shard(files), tuple(taken))

    def _give_back(self, held: _Held) -> None:
        """Rows are copied out of a shard, so it may go; its mapping is freed with its last reference."""
        if isinstance(self._source, StreamedFiles):
            for taken in held.taken:
                self._source.give_back(taken)
