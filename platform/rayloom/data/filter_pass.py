"""The first pass over the text: normalises every row, applies the rules, and makes the dedup keys of what is kept.

Of each chunk it leaves `documents/CHUNK`, `keys/CHUNK` and, last, `judged/CHUNK` with counts and what is for people.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rayloom.data.dedup.dedup_keys import Keys, document_id
from rayloom.data.exchange.judged_documents import as_lines, documents_file
from rayloom.data.exchange.work_files import WorkFiles
from rayloom.data.row_counts import RowCounts, chosen
from rayloom.data.rules.contamination import Passages
from rayloom.data.rules.document_rules import Judge, Kept, cleaner_of, judge_of
from rayloom.data.rules.examined_text import Drop
from rayloom.data.sources.chunks import RawChunk
from rayloom.data.sources.document_rows import SourceRow
from rayloom.data.sources.source_files import InputFile
from rayloom.specs.clean import CleanSpec
from rayloom.text.text_views import Folded

EXCERPT_CHARACTERS = 1000


@dataclass(frozen=True)
class JudgingPass:
    """Inputs of every task of the pass."""

    spec: CleanSpec
    files: tuple[InputFile, ...]
    work: WorkFiles
    is_resumed: bool = False
    """Whether an earlier run may have left finished chunks."""
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Word lists from files, by domain."""


@dataclass(frozen=True)
class _Domain:
    """The functions that judge the documents of a domain and clean their kept columns."""

    judge: Judge
    clean: Callable[[Any], Any]


class Judging:
    """Judges chunks one after the other; a worker makes it once."""

    def __init__(self, given: JudgingPass) -> None:
        self.given = given
        spec = given.spec
        passages = Passages.load(given.work.here("evaluation")) if spec.decontamination else None
        self._domains = {}
        for domain in {source.domain for source in spec.sources}:
            normalisation, rules = spec.normalisation_of(domain), spec.rules_of(domain)
            judge = judge_of(normalisation, rules, given.words.get(domain, ()), passages)
            self._domains[domain] = _Domain(judge, cleaner_of(normalisation, rules))
        self._keys = Keys(spec.deduplication) if spec.deduplication else None

    def __call__(self, chunk: RawChunk) -> dict[str, Any]:
        """Writes the chunk's files to the work folder; returns its counts."""
        work = self.given.work
        finished = work.found_parts(f"judged/{chunk.name}") if self.given.is_resumed else None
        if finished is not None:
            return dict(json.loads(bytes(finished["record"])))
        result = _Result(self.given, chunk)
        domain = self._domains[result.source.domain]
        for file, row in chunk.rows:
            result.judge_row(file, row, domain)
        if self._keys is not None:
            keys = self._keys.of(result.ids, [kept.text for kept in result.kept], result.folded)
            work.write_parts(f"keys/{chunk.name}", {kind: records.tobytes() for kind, records in keys.items()})
        return result.write(work)


class _Result:
    """Kept documents, rejects and counts of one chunk."""

    def __init__(self, given: JudgingPass, chunk: RawChunk) -> None:
        self.chunk, self.files = chunk, given.files
        self.source = given.spec.sources[given.files[chunk.name.file].source]
        self.samples_per_reason = given.spec.sample_rows_per_reason
        self.tally = RowCounts()
        self.ids: list[int] = []
        self.kept: list[Kept] = []
        self.labels: list[str] = []
        self.columns: list[str] = []
        self.rejects: list[dict[str, Any]] = []
        self.hits: list[dict[str, Any]] = []

    def judge_row(self, file: int, row: SourceRow, domain: _Domain) -> None:
        name, number, text = self.source.name, row.number, row.text
        self.tally.rows_in[name] += 1
        for piece, judgement in enumerate([Drop(row.drop, 0)] if row.drop else domain.judge(text)):
            if isinstance(judgement, Kept):
                self.ids.append(document_id(file, number, piece))
                self.kept.append(judgement)
                self.labels.append(row.label)
                self.columns.append(json.dumps(domain.clean(row.columns)) if row.columns else "")
                if row.label:
                    self.tally.labels[f"{name}/{row.label}"] += 1
                self.tally.kept[name] += 1
                self.tally.shortened[name] += judgement.was_shortened
                self.tally.characters[name] += len(judgement.text)
                self.tally.notes.update({f"{name}/{note}": count for note, count in judgement.notes.items()})
                self.tally.lengths[f"{name}/{len(judgement.text).bit_length()}"] += 1
            else:
                self.tally.dropped[f"{name}/{judgement.reason}"] += 1
                self.hits += [hit | self._origin(file, number, piece) for hit in judgement.hits]
                about = {"reason": judgement.reason, "value": round(float(judgement.value), 6)}
                about |= {"rule": judgement.rule} if judgement.rule else {}
                self.rejects.append(self._origin(file, number, piece) | about | {"text": text[:EXCERPT_CHARACTERS]})

    def _origin(self, file: int, row: int, piece: int = 0) -> dict[str, Any]:
        origin = {"source": self.source.name, "file": self.files[file].name, "row": row}
        return origin | {"piece": piece} if piece else origin

    @property
    def folded(self) -> list[Folded]:
        return [kept.folded for kept in self.kept]

    def write(self, work: WorkFiles) -> dict[str, Any]:
        """Writes documents, counts, rejects and samples; returns the counts."""
        texts = [kept.text for kept in self.kept]
        documents = documents_file(self.ids, texts, self.folded, self.labels, self.columns)
        work.write(f"documents/{self.chunk.name}", documents)
        for _, row in self.chunk.bad_rows:
            self.tally.bad_rows[f"{self.source.name}/{row.reason}"] += 1
        bad = [
            self._origin(file, row.number) | {"reason": row.reason, "detail": row.detail}
            for file, row in self.chunk.bad_rows
        ]
        samples = chosen(self.rejects, self.samples_per_reason)
        read = {"rejects": self.rejects, "hits": self.hits, "unreadable": bad, "samples": samples}
        lines = {name: as_lines(rows) for name, rows in read.items()}
        record = self.record() | {f"{name}_bytes": len(lines[name]) for name in ("rejects", "hits", "unreadable")}
        work.write_parts(f"judged/{self.chunk.name}", {"record": json.dumps(record).encode(), **lines})
        return record

    def record(self) -> dict[str, Any]:
        first_bad = self.chunk.bad_rows[:1]
        firsts = [(file, row.number) for file, row in self.chunk.rows[:1]]
        firsts += [(file, row.number) for file, row in first_bad]
        return {
            "chunk": [self.chunk.name.file, self.chunk.name.number],
            "first_id": document_id(*min(firsts)),
            "tally": self.tally.as_json(),
            "first_bad": [
                f"{self.files[file].name} row {row.number}: {row.reason}, {row.detail}" for file, row in first_bad
            ],
        }
