"""Documents of earlier corpora, decoded from their shards, so that new documents can be compared with them.

An earlier corpus stores no index: its tokens are decoded to text shard by shard. Its documents get keys like new ones,
and ids after those of all new files. A cluster that has an earlier document keeps that one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from rayloom.artifacts.store import Artifact
from rayloom.data.dedup.dedup_keys import Keys, document_id
from rayloom.data.exchange.judged_documents import documents_file
from rayloom.data.exchange.work_files import WorkFiles
from rayloom.data.sources.chunks import ChunkName
from rayloom.errors import InputError
from rayloom.specs.clean import CleanSpec, Deduplication
from rayloom.text.text_views import Folded, is_unspaced

TOKENS_AT_ONCE = 1 << 20
SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class EarlierPiece:
    """Consecutive documents of one shard of an earlier corpus."""

    name: ChunkName
    """Its `file` number continues after the job's own files, one number for each shard."""
    corpus: Artifact
    split: str
    shard: int
    first_document: int
    num_documents: int

    @property
    def first_id(self) -> int:
        return document_id(self.name.file, self.first_document + 1)


def earlier_pieces(spec: CleanSpec, parents: Mapping[str, Artifact], num_files: int) -> tuple[EarlierPiece, ...]:
    """All documents of earlier corpora in pieces of about a million tokens. Raises InputError if one is no corpus."""
    found: list[EarlierPiece] = []
    for number, _ in enumerate(spec.deduplication.against if spec.deduplication else ()):
        artifact = parents[f"deduplication.against.{number}"]
        for split in SPLITS:
            for shard, starts in _shards(artifact.path / split):
                file = num_files + len({(one.corpus.id, one.split, one.shard) for one in found})
                for piece, (first, count) in enumerate(_cut(starts)):
                    name = ChunkName(file, piece)
                    found.append(EarlierPiece(name, artifact, split, shard, first, count))
    return tuple(found)


def _shards(folder: Path) -> Iterator[tuple[int, Any]]:
    """Each shard's number and the offsets at which its documents start, with the end of the shard last."""
    try:
        index = json.loads((folder / "index.json").read_text())
    except FileNotFoundError:
        fix = "Name corpora that `clean` made with output.type tokens."
        raise InputError("There are no finished token shards here", where=str(folder), fix=fix) from None
    for number, facts in enumerate(index["shards"]):
        starts = np.load(folder / f"{number:05d}.documents.npy", mmap_mode="r", allow_pickle=False)
        yield number, np.append(starts, facts["num_tokens"])


def _cut(starts: Any) -> Iterator[tuple[int, int]]:
    """First document and number of documents of each piece."""
    first = 0
    while first < len(starts) - 1:
        end = int(np.searchsorted(starts, starts[first] + TOKENS_AT_ONCE))
        end = min(max(end, first + 1), len(starts) - 1)
        yield first, end - first
        first = end


def read_back(spec: Deduplication, work: WorkFiles, piece: EarlierPiece) -> dict[str, Any]:
    """Writes a piece's documents and keys to the work folder in the form in which the judging pass writes chunks."""
    texts = list(_texts(piece))
    folded = [Folded(text, is_unspaced(text)) for text in texts]
    ids = [document_id(piece.name.file, piece.first_document + number + 1) for number in range(len(texts))]
    keys = Keys(spec).of(ids, texts, folded)
    work.write_parts(f"keys/{piece.name}", {kind: records.tobytes() for kind, records in keys.items()})
    nothing = [""] * len(texts)
    work.write(f"documents/{piece.name}", documents_file(ids, texts, folded, nothing, nothing))
    return {"earlier_documents": piece.num_documents}


def _texts(piece: EarlierPiece) -> Iterator[str]:
    folder = piece.corpus.path
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    stem = folder / piece.split / f"{piece.shard:05d}"
    tokens = np.load(f"{stem}.tokens.npy", mmap_mode="r", allow_pickle=False)
    starts = np.append(np.load(f"{stem}.documents.npy", mmap_mode="r", allow_pickle=False), len(tokens))
    for first in range(piece.first_document, piece.first_document + piece.num_documents):
        ids = tokens[starts[first] : starts[first + 1] - 1]  # without its end-of-text token
        yield tokenizer.decode(ids.tolist(), skip_special_tokens=False)
