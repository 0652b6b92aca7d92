"""Which files of an artifact can be browsed, and the reader of each; readers are kept while they are used."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from rayloom.artifacts.manifest import FileEntry, Manifest
from rayloom.artifacts.store import Store
from rayloom.commands.output import size
from rayloom.errors import InputError
from rayloom.reading.compressed import without_compression
from rayloom.reading.files import format_of
from rayloom.ui.rows.line_file import BrowsedLines
from rayloom.ui.rows.records import BrowsedRecords
from rayloom.ui.rows.row_page import RowSource

MOST_OPEN = 16
MOST_REMOTE_BYTES = 500_000_000
"""A larger artifact of a remote store is not fetched to be browsed."""
SHARDS = "/index.json"
TOKENIZERS = ("tokenizer/tokenizer.json", "tokenizer.json")


@dataclass(frozen=True)
class BrowsableFile:
    """A file with rows, or a folder of token shards (by its index)."""

    path: str
    size_bytes: int
    is_shards: bool = False


def browsable(manifest: Manifest) -> list[BrowsableFile]:
    """The files whose rows can be looked at, in the order of the manifest."""
    names = {file.path for file in manifest.files}
    return [
        BrowsableFile(file.path, file.size_bytes, is_shards=file.path.endswith(SHARDS))
        for file in manifest.files
        if _has_rows(file, names)
    ]


def _has_rows(file: FileEntry, names: set[str]) -> bool:
    if file.path.endswith(SHARDS):
        is_there = f"{file.path.removesuffix(SHARDS)}/00000.tokens.npy" in names
        return is_there and any(name in names for name in TOKENIZERS)
    form = format_of(file.path)
    if form == "json":
        return is_likely_rows(file.path)
    return form in ("jsonl", "csv", "tsv", "parquet", "text", "conll") and file.size_bytes > 0


def is_likely_rows(path: str) -> bool:
    """Whether a JSON file is likely rows, not the settings of a model."""
    name = path.rsplit("/", 1)[-1]
    settings = ("config", "tokenizer", "index", "vocab", "special_tokens", "generation", "corpus", "summary", "merges")
    return not name.startswith(settings) and not name.endswith((".index.json", "_config.json"))


class RowSources:
    """Open files by artifact and path, the last used ones."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        self._open: OrderedDict[tuple[str, str], RowSource] = OrderedDict()

    def of(self, manifest: Manifest, path: str) -> RowSource:
        """The reader of one of `browsable(manifest)`. Raises InputError for others, and if the file is not usable."""
        file = next((one for one in browsable(manifest) if one.path == path), None)
        if file is None:
            raise InputError("This artifact has no rows there", where=path, fix="Its page lists the files that do.")
        if not self._store.is_local and manifest.size_bytes > MOST_REMOTE_BYTES:
            what = f"{manifest.id} has {size(manifest.size_bytes)} in a remote store"
            raise InputError(what, where=path, fix="Fetch it to a folder to look at its rows.")
        key = (f"{manifest.id} {manifest.digest}", path)
        with self._lock:
            if key not in self._open:
                self._open[key] = self._opened(self._store.open(manifest).path, file)
            self._open.move_to_end(key)
            while len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
            return self._open[key]

    def _opened(self, folder: Path, file: BrowsableFile) -> RowSource:
        path = folder / file.path
        if not path.is_file():
            raise InputError("This file of the artifact is missing", where=str(path), fix="`rayloom artifacts verify`.")
        if file.is_shards:
            from rayloom.ui.rows.documents import BrowsedDocuments

            tokenizer = next(folder / name for name in TOKENIZERS if (folder / name).is_file())
            return BrowsedDocuments(path.parent, tokenizer)
        form, is_plain = format_of(file.path), without_compression(file.path) == file.path
        if form == "parquet" and is_plain:
            from rayloom.ui.rows.table_file import BrowsedTable

            return BrowsedTable(path)
        if form in ("jsonl", "text") and is_plain:
            return BrowsedLines(path, is_json=form == "jsonl")
        return BrowsedRecords(path, self._store.cache / "ui" / "rows")
