"""The passes of a cleaning job in order. Each can be resumed, and none holds the corpus in memory."""

from __future__ import annotations

import functools
import tempfile
from array import array
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from rayloom.artifacts.build import Build
from rayloom.data import audit, likelihood_pass
from rayloom.data.corpus import token_output
from rayloom.data.dedup import earlier_corpora
from rayloom.data.dedup.duplicate_passes import DuplicatesPass, find_duplicates
from rayloom.data.dedup.earlier_corpora import earlier_pieces
from rayloom.data.exchange.work_files import WorkFiles, array_of
from rayloom.data.filter_pass import JudgingPass
from rayloom.data.kept_documents import JudgedCorpus, group_records
from rayloom.data.labelled import row_output
from rayloom.data.likelihood_pass import Scorer, ScoringPass
from rayloom.data.passes import Passes, TaskCounts, WorkerPool, summed
from rayloom.data.row_counts import RowCounts
from rayloom.data.rules import contamination
from rayloom.data.rules.contamination import EvaluationFile
from rayloom.data.rules.sensitive import listed_words
from rayloom.data.sources.chunk_table import CHUNK, ChunkTable
from rayloom.data.sources.source_files import InputFile, files_of
from rayloom.specs.clean import CleanSpec, Deduplication
from rayloom.specs.cleaning.output import TokensOutput

BYTES_PER_BUCKET = 1 << 30
MIN_BUCKETS = 4
BYTES_PER_TOKEN = 4
"""Estimate for the text of an earlier corpus; only the number of buckets depends on it."""


def clean(spec: CleanSpec, build: Build, files: tuple[InputFile, ...], work: WorkFiles, passes: Passes) -> TaskCounts:
    """Writes the artifact's files; returns all counts about them, and as `stored` the files that are in the bucket."""
    is_resumed = work.is_begun()
    evaluation = _evaluation(spec, build, work, passes)
    pieces = earlier_pieces(spec, build.parents, len(files))
    size_bytes = sum(file.size_bytes for file in files) + len(pieces) * earlier_corpora.TOKENS_AT_ONCE * BYTES_PER_TOKEN
    num_buckets = max(MIN_BUCKETS, -(-size_bytes // BYTES_PER_BUCKET))
    given = JudgingPass(spec, files, work, is_resumed, listed_words(spec, build.parents))
    judged = replace(_judged(given, num_buckets, passes), earlier=pieces)
    judged = _deduplicated(spec, judged, passes)
    judged = _filtered_by_perplexity(judged, build, passes)
    make = token_output.make if isinstance(spec.output, TokensOutput) else row_output.make
    numbers = make(judged, build, passes)
    hits = numbers.pop("hits", {})
    if evaluation:
        none = {"rows_hit": 0, "hits": 0}
        numbers["evaluation_sets"] = {name: facts | hits.get(name, none) for name, facts in evaluation.items()}
    return numbers


def _evaluation(spec: CleanSpec, build: Build, work: WorkFiles, passes: Passes) -> dict[str, dict[str, int]]:
    """Writes the passages of the evaluation sets to the work folder; returns the counts of each set."""
    wanted = spec.decontamination
    if wanted is None:
        return {}
    files = []
    for number, one in enumerate(wanted.against):
        there = files_of(one, build.parents.get(f"decontamination.against.{number}.dataset"))
        files += [EvaluationFile(number, file.uri, file.name) for file in there]

    def read(_: int) -> TaskCounts:
        with tempfile.TemporaryDirectory(prefix="rayloom-") as folder:
            counts = contamination.build(wanted, files, Path(folder))
            work.put_folder("evaluation", Path(folder))
        return counts

    record = passes.once("evaluation-counts", lambda: passes.each("reading evaluation sets", [0], read)[0])
    return {one.name: record[one.name] for one in wanted.against}


def _filtered_by_perplexity(judged: JudgedCorpus, build: Build, passes: Passes) -> JudgedCorpus:
    wanted = judged.spec.perplexity
    if wanted is None:
        return judged
    given = ScoringPass(judged, build.parents["perplexity.model"])
    workers = WorkerPool(wanted.num_workers, wanted.cpus_per_worker, wanted.gpus_per_worker)

    def work() -> TaskCounts:
        passes.each_by("scoring", range(len(judged.chunks.groups)), functools.partial(Scorer, given), workers)
        limits = likelihood_pass.order_limits(given, passes)
        sift = functools.partial(likelihood_pass.sift, given, limits)
        return group_records(judged.each(passes, "sifting", sift))

    record = passes.once("perplexity", work)
    dropped: Counter[str] = Counter(record["dropped"])
    judged.tally.dropped.update(dropped)
    sifted = replace(judged, num_unlikely=dropped.total(), sifted_bytes=tuple(record["rejects_bytes"]))
    audit.check_not_empty(judged.tally, sifted.num_left)
    return sifted


def _judged(given: JudgingPass, num_buckets: int, passes: Passes) -> JudgedCorpus:
    spec = given.spec

    def work() -> TaskCounts:
        tally, numbers = RowCounts(), array("Q")
        first_bad: list[tuple[list[int], str]] = []
        for record in passes.judge(given):
            tally.add(RowCounts.from_json(record["tally"]))
            first_bad = sorted([*first_bad, *((record["chunk"], row) for row in record["first_bad"])])[:1]
            sizes = (record[f"{kind}_bytes"] for kind in ("rejects", "hits", "unreadable"))
            numbers.extend((*record["chunk"], record["first_id"], *sizes))
        columns = np.frombuffer(numbers, np.uint64).reshape(-1, len(CHUNK.names or ()))
        chunks = np.zeros(len(columns), CHUNK)
        for column, name in zip(columns.T, CHUNK.names or (), strict=True):
            chunks[name] = column
        given.work.write_parts("chunks", {"chunks": np.sort(chunks, order=("file", "number")).tobytes()})
        return {"tally": tally.as_json(), "first_bad": [row for _, row in first_bad]}

    found = passes.once("judged", work)
    tally = RowCounts.from_json(found["tally"])
    audit.check_readable(spec, tally, found["first_bad"])
    audit.check_not_empty(tally, tally.kept.total())
    chunks = ChunkTable(array_of(given.work.read_parts("chunks")["chunks"], CHUNK))
    return JudgedCorpus(spec, given.files, given.work, chunks, num_buckets, tally, is_resumed=given.is_resumed)


def _compared(spec: Deduplication, judged: JudgedCorpus) -> DuplicatesPass:
    """Inputs of the duplicate passes: the new chunks, followed by those of earlier corpora."""
    new, work, earlier = judged.chunks, judged.work, judged.earlier
    if not earlier:
        return DuplicatesPass(spec, work, new, new.groups, judged.num_buckets)
    old = ChunkTable(
        np.asarray([(piece.name.file, piece.name.number, piece.first_id, 0, 0, 0) for piece in earlier], CHUNK)
    )
    both = ChunkTable(np.concatenate([new.chunks, old.chunks]))
    groups = (*new.groups, *(range(group.start + len(new), group.stop + len(new)) for group in old.groups))
    return DuplicatesPass(spec, work, both, groups, judged.num_buckets, earlier[0].first_id)


def _deduplicated(spec: CleanSpec, judged: JudgedCorpus, passes: Passes) -> JudgedCorpus:
    wanted = spec.deduplication
    if wanted is None:
        return judged
    given = _compared(wanted, judged)
    pieces = judged.earlier

    def read_back(piece: int) -> TaskCounts:
        return earlier_corpora.read_back(wanted, judged.work, pieces[piece])

    def work() -> TaskCounts:
        records = passes.each("reading earlier corpora", range(len(pieces)), read_back) if pieces else []
        return summed([*records, find_duplicates(given, passes)])

    deduplicated = judged.without(given, passes.once("duplicates", work))
    audit.check_not_empty(judged.tally, deduplicated.num_left)
    return deduplicated
