"""The documents that passed the rules, which of them later passes removed, and the list of removed duplicates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.data.dedup.dedup_keys import place_of
from rayloom.data.dedup.duplicate_passes import DuplicatesPass, removed_of
from rayloom.data.dedup.earlier_corpora import EarlierPiece
from rayloom.data.exchange.judged_documents import read_documents
from rayloom.data.exchange.mail import Mail
from rayloom.data.exchange.work_files import WorkFiles, array_of
from rayloom.data.filter_pass import EXCERPT_CHARACTERS
from rayloom.data.passes import Exchange, Passes, TaskCounts, Work, summed
from rayloom.data.row_counts import RowCounts
from rayloom.data.sources.chunk_table import ChunkTable
from rayloom.data.sources.source_files import InputFile
from rayloom.specs.clean import CleanSpec
from rayloom.specs.cleaning.text_sources import TextSource


@dataclass(frozen=True)
class JudgedCorpus:
    """The documents that the rules kept, and which of them later passes removed."""

    spec: CleanSpec
    files: tuple[InputFile, ...]
    work: WorkFiles
    chunks: ChunkTable
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
    sifted_bytes: tuple[int, ...] = ()
    """Bytes of the rejects of the perplexity limits, by group of chunks."""
    is_resumed: bool = False
    """Whether an earlier run may have left files of chunks in an unfinished pass."""

    @property
    def num_left(self) -> int:
        """Number of documents that no rule, duplicate or perplexity limit removed."""
        duplicates = sum(self.duplicate_counts.get(f"{kind}_duplicates", 0) for kind in ("exact", "near"))
        return self.tally.kept.total() - duplicates - (self.num_unlikely or 0)

    def source_of(self, chunk: int) -> TextSource:
        """The source of a chunk; every chunk has one source only."""
        return self.spec.sources[self.files[self.chunks.file(chunk)].source]

    def without(self, duplicates: DuplicatesPass, counts: dict[str, int]) -> JudgedCorpus:
        return replace(self, duplicates=duplicates, duplicate_counts=counts)

    def removed_ids(self, chunk: int) -> NDArray[Any]:
        """Ids of the chunk's documents that are removed as duplicates or by their perplexity."""
        ids: NDArray[Any] = self.duplicates_in(chunk)["id"] if self.duplicates else np.zeros(0, np.uint64)
        if self.num_unlikely is None:
            return ids
        unlikely = array_of(self.work.read_parts(f"sifted/{self.chunks.name(chunk)}")["removed"], np.uint64)
        return np.concatenate([ids, unlikely])

    def duplicates_in(self, chunk: int) -> NDArray[Any]:
        """The chunk's documents that are removed as duplicates, sorted by id."""
        assert self.duplicates is not None
        found = removed_of(self.duplicates, self.chunks.group_of(chunk))
        return found[slice(*np.searchsorted(found["id"], np.asarray(self.chunks.id_range(chunk), np.uint64)))]

    @property
    def judged_bytes(self) -> dict[str, list[int]]:
        """Bytes that judging wrote about the rows of each group of chunks, by kind."""
        kinds = ("rejects", "hits", "unreadable")
        records = self.chunks.chunks
        return {k: [int(records[k][g.start : g.stop].sum(dtype=np.int64)) for g in self.chunks.groups] for k in kinds}

    def documents(self, chunk: int, further: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """Batches of the documents that passed the rules; see `read_documents`."""
        return read_documents(self.work.read(f"documents/{self.chunks.name(chunk)}"), further)

    def each(self, passes: Passes, label: str, work: Work) -> list[TaskCounts]:
        """Runs a function on every chunk; returns the summed counts of each group of chunks."""
        groups = self.chunks.groups

        def run(group: int) -> TaskCounts:
            return summed(work(chunk) for chunk in groups[group])

        return passes.each(label, range(len(groups)), run)

    def exchanged(
        self, passes: Passes, label: str, work: Callable[[int, Mail], TaskCounts], name: str, num_destinations: int
    ) -> Exchange:
        """Runs a function that sends records through one exchange on every chunk."""
        groups = self.chunks.groups

        def run(group: int, mail: Mail) -> TaskCounts:
            return summed(work(chunk, mail) for chunk in groups[group])

        return passes.exchange(label, range(len(groups)), run, writes={name: num_destinations})[1][name]


def group_records(records: Sequence[TaskCounts]) -> TaskCounts:
    """The records of all groups of chunks summed, but `rejects_bytes` by group."""
    return summed(record | {"rejects_bytes": [record["rejects_bytes"]]} for record in records)


# The list of removed duplicates for people to read, each with the origin of the document kept instead.


def origin_of(judged: JudgedCorpus, document: int) -> dict[str, Any]:
    """Source, file, row and (if the row was split) piece of a document; of an earlier corpus, name, shard and index."""
    file, row, piece = place_of(document)
    if file >= len(judged.files):
        shard = next(one for one in judged.earlier if one.name.file == file)
        return {"source": shard.corpus.id, "file": f"{shard.split}/{shard.shard:05d}", "row": row}
    about = judged.files[file]
    origin = {"source": judged.spec.sources[about.source].name, "file": about.name, "row": row}
    return origin | {"piece": piece} if piece else origin


def duplicate_rejects(judged: JudgedCorpus, chunk: int) -> list[dict[str, Any]]:
    """The chunk's removed duplicates, each with the document that was kept instead."""
    if judged.duplicates is None:
        return []
    removed = {int(row["id"]): row for row in judged.duplicates_in(chunk)}
    rejects = []
    for batch in judged.documents(chunk) if removed else ():
        for index in np.flatnonzero(np.isin(batch["id"], np.fromiter(removed, np.uint64, len(removed)))):
            row = removed[int(batch["id"][index])]
            about: dict[str, Any] = {"reason": "exact_duplicate" if row["is_exact"] else "near_duplicate"}
            about |= {"kept": origin_of(judged, int(row["kept"])), "text": batch["text"][index][:EXCERPT_CHARACTERS]}
            rejects.append(origin_of(judged, int(row["id"])) | about)
    return rejects
