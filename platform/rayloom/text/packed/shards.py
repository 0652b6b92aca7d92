"""Token shards: tokenised documents on disk, read by position without a scan.

A folder holds `index.json` and, for each shard, three arrays of plain .npy (memory-mapped, never unpickled):
`NNNNN.tokens.npy` the token ids one after the other, `NNNNN.documents.npy` where each document starts (int64), and,
where not every token is trained, `NNNNN.trained.npy` (bool, one for each token). `rows.npy`, where it exists, fixes
where packed rows start; otherwise a row is every `sequence_length_tokens` tokens.

Shapes: T tokens in a row, at most the sequence length.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.errors import InputError

INDEX_NAME, ROWS_NAME = "index.json", "rows.npy"
SHARD_ARRAYS = ("tokens", "documents", "trained")
SHARD_TOKENS = 50_000_000
"""A shard ends with the document that reaches so many."""


@dataclass(frozen=True)
class Row:
    """One packed row of T tokens; documents in it must not see each other."""

    tokens: NDArray[np.int64]
    """(T,) token ids."""
    trained: NDArray[np.bool_]
    """(T,) whether the token is a label. The first of each document never is: nothing in the row precedes it."""
    positions: NDArray[np.int64]
    """(T,) place in the document's part in this row; 0 begins a document."""


class ShardWriter:
    """Writes documents in order. `index.json` comes last, so a folder without it is unfinished."""

    def __init__(
        self,
        directory: Path,
        vocabulary_size: int,
        tokenizer_digest: str,
        shard_tokens: int = SHARD_TOKENS,
        sequence_length_tokens: int | None = None,
    ) -> None:
        """`sequence_length_tokens`: the row length that `start_row` calls keep to; None for rows cut anywhere."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.shard_tokens = directory, shard_tokens
        self.dtype = token_type(vocabulary_size)
        self.facts = shard_facts(vocabulary_size, tokenizer_digest, sequence_length_tokens)
        self._shards: list[dict[str, int]] = []
        self._rows: list[int] = []
        self._total = 0
        self._begin()

    def _begin(self) -> None:
        self._tokens: list[NDArray[Any]] = []
        self._trained: list[NDArray[np.bool_]] = []
        self._starts: list[int] = []
        self._size = 0

    def start_row(self) -> None:
        """The next document begins a new packed row."""
        self._rows.append(self._total)

    def add(self, tokens: Sequence[int] | NDArray[Any], trained: NDArray[np.bool_] | None = None) -> None:
        """Appends one document. `trained` (one for each token); None trains every token."""
        array = np.asarray(tokens, dtype=self.dtype)
        if not len(array):
            return
        self._starts.append(self._size)
        self._tokens.append(array)
        self._trained.append(np.ones(len(array), np.bool_) if trained is None else trained)
        self._size += len(array)
        self._total += len(array)
        if self._size >= self.shard_tokens:
            self._flush()

    def _flush(self) -> None:
        if not self._size:
            return
        trained = np.concatenate(self._trained)
        tokens, starts = np.concatenate(self._tokens), np.asarray(self._starts, np.int64)
        save_shard(self.directory, len(self._shards), tokens, starts, None if trained.all() else trained)
        self._shards.append({"num_tokens": self._size, "num_documents": len(self._starts)})
        self._begin()

    def close(self) -> None:
        """Writes what is left, and the index."""
        self._flush()
        if self._rows:
            np.save(self.directory / ROWS_NAME, np.asarray(self._rows, np.int64), allow_pickle=False)
        save_index(self.directory, self.facts | {"has_rows": bool(self._rows), "shards": self._shards})


def token_type(vocabulary_size: int) -> type[np.uint16 | np.uint32]:
    return np.uint16 if vocabulary_size <= 1 << 16 else np.uint32


def shard_facts(vocabulary_size: int, tokenizer_digest: str, sequence_length_tokens: int | None) -> dict[str, Any]:
    """What an index says beside its shards."""
    return {
        "format": 1,
        "vocabulary_size": vocabulary_size,
        "tokenizer_digest": tokenizer_digest,
        "sequence_length_tokens": sequence_length_tokens,
    }


def save_shard(
    directory: Path,
    number: int,
    tokens: NDArray[Any],
    starts: NDArray[np.int64],
    trained: NDArray[np.bool_] | None = None,
) -> None:
    """One shard's arrays; `trained` None trains every token. Shards may be written side by side, the index last."""
    np.save(shard_file(directory, number, "tokens"), tokens, allow_pickle=False)
    np.save(shard_file(directory, number, "documents"), starts, allow_pickle=False)
    if trained is not None:
        np.save(shard_file(directory, number, "trained"), trained, allow_pickle=False)


def shard_file(directory: Path, number: int, array: str) -> Path:
    return directory / f"{number:05d}.{array}.npy"


def save_index(directory: Path, index: dict[str, Any]) -> None:
    (directory / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")


def save_first(source: Path, target: Path, num_documents: int) -> None:
    """Copies the first documents of the first shard into a folder of shards of its own, for people to look at."""
    index = read_index(source)
    shard = next(_open_shards(source, index["shards"][:1]), None)
    if shard is None:
        return
    starts = shard.starts[:num_documents]
    end = int(shard.starts[num_documents]) if num_documents < len(shard.starts) else shard.num_tokens
    target.mkdir(parents=True, exist_ok=True)
    save_shard(target, 0, shard.tokens[:end], starts, None if shard.trained is None else shard.trained[:end])
    facts = {"has_rows": False, "sequence_length_tokens": None}
    save_index(target, index | facts | {"shards": [{"num_tokens": end, "num_documents": len(starts)}]})


@dataclass(frozen=True)
class Shard:
    """One shard's arrays, mapped into memory."""

    first_token: int
    """Number of its first token in the whole."""
    num_tokens: int
    tokens: NDArray[Any]
    starts: NDArray[np.int64]
    trained: NDArray[np.bool_] | None


class TokenShards:
    """Reads a folder of shards. Rows are numbered from 0 over all shards.

    Raises InputError where the folder is not one, or where its rows were packed for another length.
    """

    def __init__(self, directory: Path, sequence_length_tokens: int) -> None:
        self.directory, self.sequence_length = directory, sequence_length_tokens
        index = read_index(directory)
        self.vocabulary_size = int(index["vocabulary_size"])
        self.tokenizer_digest = str(index["tokenizer_digest"])
        packed_for = index["sequence_length_tokens"]
        if packed_for is not None and packed_for != sequence_length_tokens:
            what = f"These rows were packed for {packed_for} tokens, not for {sequence_length_tokens}"
            raise InputError(what, where=str(directory), fix="Pack them again for this length.")
        self._shards = list(_open_shards(directory, index["shards"]))
        self.num_tokens = sum(shard.num_tokens for shard in self._shards)
        self.num_documents = sum(len(shard.starts) for shard in self._shards)
        self._first_tokens = np.asarray([shard.first_token for shard in self._shards])
        self._rows: NDArray[np.int64] | None = None
        if index["has_rows"]:
            self._rows = np.append(np.load(directory / ROWS_NAME, allow_pickle=False), self.num_tokens)

    def __len__(self) -> int:
        """Number of rows; a last piece shorter than a row is left out where rows are cut anywhere."""
        return len(self._rows) - 1 if self._rows is not None else self.num_tokens // self.sequence_length

    def row(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        if self._rows is not None:
            begin, end = int(self._rows[index]), int(self._rows[index + 1])
        else:
            begin, end = index * self.sequence_length, (index + 1) * self.sequence_length
        return row_of(self._shards, int(np.searchsorted(self._first_tokens, begin, side="right")) - 1, begin, end)

    def num_trained(self, index: int) -> int:
        """How many labels row `index` has."""
        return int(self.row(index).trained.sum())


def row_of(shards: Sequence[Shard], number: int, begin: int, end: int) -> Row:
    """Tokens `begin` to `end` as a row. `number`: of the shard that has the first of them."""
    tokens = np.empty(end - begin, np.int64)
    trained = np.ones(end - begin, np.bool_)
    starts = np.zeros(end - begin, np.bool_)
    starts[0] = True
    filled = 0
    while filled < end - begin:
        shard = shards[number]
        low = begin + filled - shard.first_token
        high = min(shard.num_tokens, end - shard.first_token)
        part = slice(filled, filled + high - low)
        tokens[part] = shard.tokens[low:high]
        if shard.trained is not None:
            trained[part] = shard.trained[low:high]
        first, last = np.searchsorted(shard.starts, (low, high))
        starts[shard.starts[first:last] - low + filled] = True
        filled += high - low
        number += 1
    places = np.arange(end - begin)
    positions = places - np.maximum.accumulate(np.where(starts, places, 0))
    return Row(tokens, trained & ~starts, positions)


def read_index(directory: Path) -> dict[str, Any]:
    """What `index.json` says. Raises InputError if there is none."""
    try:
        index: dict[str, Any] = json.loads((directory / INDEX_NAME).read_text())
    except FileNotFoundError:
        fix = "Name a corpus made by a `clean` job."
        raise InputError("There are no finished token shards here", where=str(directory), fix=fix) from None
    if "shards" not in index:
        fix = "Name a corpus or what was trained on text; labels have a check of type task."
        raise InputError("There are no token shards here, but rows of a task", where=str(directory), fix=fix)
    return index


def _open_shards(directory: Path, shards: list[dict[str, int]]) -> Iterator[Shard]:
    first = 0
    for number, facts in enumerate(shards):
        files = {array: shard_file(directory, number, array) for array in SHARD_ARRAYS}
        yield open_shard({a: file for a, file in files.items() if a != "trained" or file.exists()}, first)
        first += facts["num_tokens"]


def open_shard(files: Mapping[str, Path], first_token: int = 0) -> Shard:
    """The shard of these files, by what they hold (`SHARD_ARRAYS`)."""
    arrays = {name: np.load(file, mmap_mode="r", allow_pickle=False) for name, file in files.items()}
    tokens = arrays["tokens"]
    return Shard(first_token, len(tokens), tokens, arrays["documents"], arrays.get("trained"))
