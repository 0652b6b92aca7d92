"""The documents that passed the rules, which of them later passes removed, and the list of removed duplicates."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.data.dedup.dedup_keys import place_of
from rayloom.data.dedup.duplicate_passes import DuplicatesPass, removed_of
from rayloom.data.dedup.earlier_corpora import EarlierPiece
from rayloom.data.exchange.judged_documents import read_documents
from rayloom.data.exchange.scratch import Scratch
from rayloom.data.filter_pass import EXCERPT_CHARACTERS
from rayloom.data.row_counts import RowCounts
from rayloom.data.sources.chunks import ChunkName
from rayloom.data.sources.source_files import InputFile
from rayloom.specs.clean import CleanSpec
from rayloom.specs.cleaning.text_sources import TextSource


@dataclass(frozen=True)
class JudgedCorpus:
    """The documents that the rules kept, and which of them later passes removed."""

    spec: CleanSpec
    files: tuple[InputFile, ...]
    scratch: Scratch
    chunks: tuple[str, ...]
    """Names of all chunks, in the order of their documents' ids."""
    first_ids: NDArray[np.uint64]
    """The smallest id that can be in each chunk."""
    num_buckets: int
    tally: RowCounts
    duplicates: DuplicatesPass | None = None
    """None if there is no deduplication."""
    duplicate_counts: dict[str, int] = field(default_factory=dict)
    """Numbers of candidate pairs, duplicates and clusters."""
    earlier: tuple[EarlierPiece, ...] = ()
    """Documents of earlier corpora, with which the new ones are compared."""
    num_unlikely: int | None = None
    """Documents outside the limits of perplexity; None if there is no limit."""

    @property
    def num_left(self) -> int:
        """Number of documents that no rule, duplicate or perplexity limit removed."""
        duplicates = sum(self.duplicate_counts.get(f"{kind}_duplicates", 0) for kind in ("exact", "near"))
        return self.tally.kept.total() - duplicates - (self.num_unlikely or 0)

    def source_of(self, chunk: int) -> TextSource:
        """The source of a chunk; every chunk has one source only."""
        return self.spec.sources[self.files[ChunkName.of(self.chunks[chunk]).file].source]

    def without(self, duplicates: DuplicatesPass, counts: dict[str, int]) -> JudgedCorpus:
        return replace(self, duplicates=duplicates, duplicate_counts=counts)

    def removed_ids(self, chunk: int) -> NDArray[Any]:
        """Ids of the chunk's documents that are removed as duplicates or by their perplexity."""
        ids: NDArray[Any] = removed_of(self.duplicates, chunk)["id"] if self.duplicates else np.zeros(0, np.uint64)
        if self.num_unlikely is None:
            return ids
        unlikely = np.fromfile(self.scratch.folder("sifted") / self.chunks[chunk], np.uint64)
        return np.concatenate([ids, unlikely])


# The list of removed duplicates for people to read, each with the origin of the document kept instead.


def origin_of(judged: JudgedCorpus, document: int) -> dict[str, Any]:
    """Source, file, row and (if the row was split) piece of a document; of an earlier corpus, name, shard and index."""
    file, row, piece = place_of(document)
    if file >= len(judged.files):
        shard = next(one for one in judged.earlier if one.name.file == file)
        return {"source": shard.corpus, "file": f"{shard.split}/{shard.shard:05d}", "row": row}
    about = judged.files[file]
    origin = {"source": judged.spec.sources[about.source].name, "file": about.name, "row": row}
    return origin | {"piece": piece} if piece else origin


def duplicate_rejects(judged: JudgedCorpus, chunk: int) -> list[dict[str, Any]]:
    """The chunk's removed duplicates, each with the document that was kept instead."""
    if judged.duplicates is None:
        return []
    removed = {int(row["id"]): row for row in removed_of(judged.duplicates, chunk)}
    rejects = []
    path = judged.scratch.folder("judged") / f"{judged.chunks[chunk]}.arrow"
    for batch in read_documents(path) if removed else ():
        for index in np.flatnonzero(np.isin(batch["id"], np.fromiter(removed, np.uint64, len(removed)))):
            row = removed[int(batch["id"][index])]
            about: dict[str, Any] = {"reason": "exact_duplicate" if row["is_exact"] else "near_duplicate"}
            about |= {"kept": origin_of(judged, int(row["kept"])), "text": batch["text"][index][:EXCERPT_CHARACTERS]}
            rejects.append(origin_of(judged, int(row["id"])) | about)
    return rejects
