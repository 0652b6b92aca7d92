"""Pass 1 over the text: every row normalised and judged; of what is kept, keys by which duplicates find each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayloom.data.chunks import RawChunk
from rayloom.data.contamination import Passages
from rayloom.data.ids import document_id
from rayloom.data.inputs import InputFile
from rayloom.data.judge import Judge, Kept, cleaner_of, judge_of
from rayloom.data.minhash import Bands
from rayloom.data.row import Row
from rayloom.data.samples import chosen
from rayloom.data.scratch import Scratch, send, write_whole
from rayloom.data.tally import Tally
from rayloom.data.verdict import Drop
from rayloom.specs.clean import CleanSpec, Deduplication

KEY = np.dtype([("key", "<u8"), ("id", "<u8"), ("exact", "<u8"), ("characters", "<u4"), ("shingles", "<u4")])
"""What one document says under one key: exact key or band key, and what is needed to judge the pair."""
EXCERPT_CHARACTERS = 1000
_DOCUMENTS = pa.schema(
    [
        ("id", pa.uint64()), ("text", pa.large_string()), ("split_hash", pa.uint64()), ("label", pa.string()),
        ("columns", pa.large_string()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class JudgingPass:
    """What every task of the pass is given."""

    spec: CleanSpec
    files: tuple[InputFile, ...]
    scratch: Scratch
    num_buckets: int
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Listed words out of files, by domain."""


@dataclass(frozen=True)
class _Domain:
    """What is done to the documents of a domain."""

    judge: Judge
    clean: Callable[[Any], Any]


class Judging:
    """Judges chunks one after the other; kept by a worker from one chunk to the next."""

    def __init__(self, given: JudgingPass) -> None:
        self.given = given
        spec = given.spec
        passages = Passages.load(given.scratch) if spec.decontamination else None
        self._domains = {}
        for domain in {source.domain for source in spec.sources}:
            normalisation, rules = spec.normalisation_of(domain), spec.rules_of(domain)
            judge = judge_of(normalisation, rules, given.words.get(domain, ()), passages)
            self._domains[domain] = _Domain(judge, cleaner_of(normalisation, rules))
        wanted = spec.deduplication
        self._bands = Bands(wanted.num_bands, wanted.rows_per_band) if wanted and wanted.near_duplicates else None

    def __call__(self, chunk: RawChunk) -> dict[str, Any]:
        """Leaves the chunk's files in the scratch folder; returns its counts."""
        place = self.given.scratch.folder("judged")
        finished = place / f"{chunk.name}.json"
        if finished.exists():
            return dict(json.loads(finished.read_text()))
        result = _Result(self.given, chunk)
        domain = self._domains[result.source.domain]
        for row in chunk.rows:
            result.judge_row(row, domain)
        if self.given.spec.deduplication:
            self._send_keys(result, self.given.spec.deduplication)
        result.write(place)
        record = result.record()
        write_whole(finished, lambda file: file.write(json.dumps(record).encode()))
        return record

    def _send_keys(self, result: _Result, spec: Deduplication) -> None:
        exact = result.exact_keys()
        _send(self.given, "exact", result, exact)
        if self._bands is not None:
            keys = np.zeros((len(exact), self._bands.num_bands), KEY)
            for index, kept in enumerate(result.kept):
                shingles = kept.folded.shingles(spec.shingle_words)
                keys[index] = exact[index]
                keys[index]["key"] = self._bands.keys(shingles)
                keys[index]["shingles"] = len(shingles)
            _send(self.given, "bands", result, keys.reshape(-1))


def _send(given: JudgingPass, kind: str, result: _Result, records: NDArray[Any]) -> None:
    buckets = (records["key"] % np.uint64(given.num_buckets)).astype(np.int64)
    send(given.scratch.folder(kind), str(result.chunk.name), records, buckets, given.num_buckets)


class _Result:
    """What became of the rows of one chunk."""

    def __init__(self, given: JudgingPass, chunk: RawChunk) -> None:
        self.chunk = chunk
        self.file = given.files[chunk.name.file]
        self.source = given.spec.sources[self.file.source]
        self.samples_per_reason = given.spec.sample_rows_per_reason
        self.tally = Tally()
        self.ids: list[int] = []
        self.kept: list[Kept] = []
        self.labels: list[str] = []
        self.columns: list[str] = []
        self.rejects: list[dict[str, Any]] = []
        self.hits: list[dict[str, Any]] = []

    def judge_row(self, row: Row, domain: _Domain) -> None:
        name, number, text = self.source.name, row.number, row.text
        self.tally.rows_in[name] += 1
        for piece, judgement in enumerate([Drop(row.drop, 0)] if row.drop else domain.judge(text)):
            if isinstance(judgement, Kept):
                self.ids.append(document_id(self.file.number, number, piece))
                self.kept.append(judgement)
                self.labels.append(row.label)
                self.columns.append(json.dumps(domain.clean(row.columns)) if row.columns else "")
                if row.label:
                    self.tally.labels[f"{name}/{row.label}"] += 1
                self.tally.kept[name] += 1
                self.tally.shortened[name] += judgement.was_shortened
                self.tally.characters[name] += len(judgement.text)
                self.tally.masked.update({f"{name}/{kind}": count for kind, count in judgement.masked.items()})
                if judgement.language:
                    self.tally.languages[f"{name}/{judgement.language}"] += 1
                self.tally.lengths[f"{name}/{len(judgement.text).bit_length()}"] += 1
            else:
                self.tally.dropped[f"{name}/{judgement.reason}"] += 1
                self.hits += [hit | self._place(number, piece) for hit in judgement.hits]
                about = {"reason": judgement.reason, "value": round(float(judgement.value), 6)}
                self.rejects.append(self._place(number, piece) | about | {"text": text[:EXCERPT_CHARACTERS]})

    def _place(self, row: int, piece: int) -> dict[str, Any]:
        place = {"source": self.source.name, "file": self.file.name, "row": row}
        return place | {"piece": piece} if piece else place

    def exact_keys(self) -> NDArray[Any]:
        """One record a kept document, under its exact key."""
        records = np.zeros(len(self.kept), KEY)
        digests = np.frombuffer(b"".join(kept.folded.exact_key for kept in self.kept), "<u8").reshape(-1, 2)
        records["key"], records["exact"] = digests[:, 0], digests[:, 1]
        records["id"] = np.asarray(self.ids, np.uint64)
        records["characters"] = [len(kept.text) for kept in self.kept]
        return records

    def write(self, place: Path) -> None:
        hashes = np.frombuffer(b"".join(kept.folded.exact_key for kept in self.kept), "<u8").reshape(-1, 2)[:, 1]
        columns = [self.ids, [kept.text for kept in self.kept], hashes, self.labels, self.columns]
        table = pa.table(dict(zip(_DOCUMENTS.names, columns, strict=True)), schema=_DOCUMENTS)
        write_table(place / f"{self.chunk.name}.arrow", table)
        write_lines(place / f"{self.chunk.name}.rejects.jsonl", self.rejects)
        write_lines(place / f"{self.chunk.name}.hits.jsonl", self.hits)
        write_lines(place / f"{self.chunk.name}.samples.jsonl", chosen(self.rejects, self.samples_per_reason))
        bad = [self._place(row.number, 0) | {"reason": row.reason, "detail": row.detail} for row in self.chunk.bad_rows]
        for row in self.chunk.bad_rows:
            self.tally.bad_rows[f"{self.source.name}/{row.reason}"] += 1
        write_lines(place / f"{self.chunk.name}.quarantine.jsonl", bad)

    def record(self) -> dict[str, Any]:
        first_bad = self.chunk.bad_rows[:1]
        first_row = min([row.number for row in self.chunk.rows[:1]] + [row.number for row in first_bad])
        return {
            "chunk": str(self.chunk.name),
            "first_id": document_id(self.file.number, first_row),
            "tally": self.tally.as_json(),
            "num_kept": len(self.kept),
            "first_bad": [f"{self.file.name} row {row.number}: {row.reason}, {row.detail}" for row in first_bad],
        }


def write_table(path: Path, table: pa.Table) -> None:
    """One Arrow file, compressed, with small batches so that a reader holds little."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")

    def write(file: Any) -> None:
        with pa.ipc.new_file(file, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=1024)

    write_whole(path, write)


def read_documents(path: Path, further: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """`id`, `text`, `split_hash` and the `further` columns (`label`, `columns`), batch after batch."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index)
            yield {
                "id": batch.column("id").to_numpy(),
                "text": batch.column("text").to_pylist(),
                "split_hash": batch.column("split_hash").to_numpy(),
                **{name: batch.column(name).to_pylist() for name in further},
            }


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """JSON lines; nothing where there are none."""
    if rows:
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        write_whole(path, lambda file: file.write(text.encode("utf-8", "replace")))
