"""The source files of a job in a fixed order, and the chunks of rows read from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rayloom.artifacts.files import matching_entries
from rayloom.artifacts.store import Artifact
from rayloom.data.sources.chunks import RawChunk, chunked
from rayloom.data.sources.document_rows import SourceRow, document_rows
from rayloom.reading.files_in_place import FileInPlace, files_in_place
from rayloom.reading.hub_datasets import ClassNames
from rayloom.reading.records import BadRow
from rayloom.reading.source_stream import SourceStream
from rayloom.reading.sources import class_names
from rayloom.specs.clean import CleanSpec
from rayloom.specs.cleaning.text_sources import DocumentFiles, TextSource


@dataclass(frozen=True)
class InputFile:
    """A source file and its index in the list of all files."""

    number: int
    source: int
    path: str
    """A path on a disk that every node sees, or a URI."""
    name: str
    """Path relative to its data set, for messages."""
    size_bytes: int
    class_names: ClassNames = field(default_factory=dict)


def input_files(spec: CleanSpec, parents: Mapping[str, Artifact]) -> tuple[InputFile, ...]:
    """Every file of every source: sources in the order of the job file, files by name.

    Raises InputError if a source's pattern matches no file.
    """
    found: list[InputFile] = []
    for index, source in enumerate(spec.sources):
        for file in files_of(source, parents.get(f"sources.{index}.dataset")):
            found.append(InputFile(len(found), index, file.uri, file.name, file.size_bytes, file.class_names))
    return tuple(found)


def files_of(source: DocumentFiles, dataset: Artifact | None) -> Iterator[FileInPlace]:
    """The files of a source, sorted by name."""
    if source.uri is not None:
        yield from files_in_place(source.uri, source.files, source.subset, source.split)
    elif dataset is not None:
        names = class_names(dataset)
        for file in matching_entries(dataset.manifest, source.files):
            # In the store itself: each task reads the files of its own, and no node fetches the whole.
            yield FileInPlace(f"{dataset.place}/{file.path}", file.path, file.size_bytes, "", names)


def reading_jobs(spec: CleanSpec, files: Sequence[InputFile]) -> list[list[InputFile]]:
    """The files of each reading task: one file, or small files of a source up to `chunk_bytes`; if `limit_documents` is
    set, all files of the source."""
    jobs: list[list[InputFile]] = []
    size_bytes = 0
    for file in files:
        is_limited = spec.sources[file.source].limit_documents is not None
        has_room = is_limited or 0 < file.size_bytes <= spec.chunk_bytes - size_bytes
        if not jobs or jobs[-1][0].source != file.source or not has_room:
            jobs.append([])
            size_bytes = 0
        jobs[-1].append(file)
        size_bytes += file.size_bytes
    return jobs


def read_chunks(spec: CleanSpec, files: Sequence[InputFile]) -> Iterator[RawChunk]:
    """The rows of the files in chunks. Raises InputError if a file cannot be opened or lacks a column."""
    source = spec.sources[files[0].source]
    reading = _Reading(spec, source, files)
    before = 0
    for chunk in chunked(_first(reading.rows(), source.limit_documents), spec.chunk_bytes):
        now = reading.num_bytes
        chunk.bytes_read, before = now - before, now
        yield chunk


class _Reading:
    """Files of one source, read one after the other."""

    def __init__(self, spec: CleanSpec, source: TextSource, files: Sequence[InputFile]) -> None:
        self._spec, self._source, self._files = spec, source, files
        self._finished_bytes = 0
        self._opened: tuple[SourceStream, InputFile] | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes read so far, before decompression."""
        if self._opened is None:
            return self._finished_bytes
        opened, file = self._opened
        return self._finished_bytes + min(opened.bytes_read, file.size_bytes)

    def rows(self) -> Iterator[tuple[int, SourceRow | BadRow]]:
        """Every row and bad row with its file's number."""
        for file in self._files:
            opened = SourceStream(file.path)
            self._opened = opened, file
            try:
                for row in document_rows(self._source, opened, file.name, self._spec.max_row_bytes, file.class_names):
                    yield file.number, row
            finally:
                self._finished_bytes, self._opened = self.num_bytes, None
                opened.close()


def _first(
    rows: Iterator[tuple[int, SourceRow | BadRow]], limit: int | None
) -> Iterator[tuple[int, SourceRow | BadRow]]:
    """All rows up to the `limit`th good one."""
    count = 0
    for file, row in rows:
        yield file, row
        count += isinstance(row, SourceRow)
        if limit is not None and count >= limit:
            return
