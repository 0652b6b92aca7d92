"""The passes of a cleaning job in order. Each can be resumed, and none holds the corpus in memory."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from rayloom.artifacts.build import Build
from rayloom.data import audit, likelihood_pass
from rayloom.data.corpus import token_output
from rayloom.data.dedup import duplicate_passes, earlier_corpora
from rayloom.data.dedup.duplicate_passes import DuplicatesPass
from rayloom.data.dedup.earlier_corpora import earlier_pieces
from rayloom.data.exchange.scratch import Scratch
from rayloom.data.filter_pass import JudgingPass
from rayloom.data.kept_documents import JudgedCorpus
from rayloom.data.labelled import row_output
from rayloom.data.likelihood_pass import Scorer, ScoringPass
from rayloom.data.passes import Passes, TaskCounts, WorkerPool
from rayloom.data.row_counts import RowCounts
from rayloom.data.rules import contamination
from rayloom.data.rules.contamination import EvaluationFile
from rayloom.data.rules.sensitive import listed_words
from rayloom.data.sources.source_files import InputFile, files_of
from rayloom.specs.clean import CleanSpec, Deduplication
from rayloom.specs.cleaning.output import TokensOutput

BYTES_PER_BUCKET = 256 << 20
MIN_BUCKETS = 4
BYTES_PER_TOKEN = 4
"""Estimate for the text of an earlier corpus; only the number of buckets depends on it."""


def clean(
    spec: CleanSpec, build: Build, files: tuple[InputFile, ...], scratch: Scratch, passes: Passes
) -> dict[str, Any]:
    """Writes the artifact's files; returns all counts about them."""
    evaluation = _evaluation(spec, build, scratch, passes)
    pieces = earlier_pieces(spec, build.parents, len(files))
    size_bytes = sum(file.size_bytes for file in files) + len(pieces) * earlier_corpora.TOKENS_AT_ONCE * BYTES_PER_TOKEN
    num_buckets = max(MIN_BUCKETS, -(-size_bytes // BYTES_PER_BUCKET))
    given = JudgingPass(spec, files, scratch, num_buckets, listed_words(spec, build.parents))
    judged = replace(_judged(given, passes), earlier=pieces)
    judged = _deduplicated(spec, judged, passes)
    judged = _filtered_by_perplexity(judged, build, passes)
    make = token_output.make if isinstance(spec.output, TokensOutput) else row_output.make
    numbers = make(judged, build, passes)
    if evaluation:
        numbers["evaluation_sets"] = audit.contamination(judged, build.directory, evaluation)
    return numbers


def _evaluation(spec: CleanSpec, build: Build, scratch: Scratch, passes: Passes) -> dict[str, dict[str, int]]:
    """Writes the passages of the evaluation sets to the scratch folder; returns the counts of each set."""
    wanted = spec.decontamination
    if wanted is None:
        return {}
    files = []
    for number, one in enumerate(wanted.against):
        there = files_of(one, build.parents.get(f"decontamination.against.{number}.dataset"))
        files += [EvaluationFile(number, file.uri, file.name) for file in there]

    def work() -> list[TaskCounts]:
        return passes.each("reading evaluation sets", [0], lambda _: contamination.build(wanted, files, scratch))

    (record,) = passes.once("evaluation", work)
    return {one.name: record[one.name] for one in wanted.against}


def _filtered_by_perplexity(judged: JudgedCorpus, build: Build, passes: Passes) -> JudgedCorpus:
    wanted = judged.spec.perplexity
    if wanted is None:
        return judged
    given = ScoringPass(judged, build.parents["perplexity.model"].path)
    every = range(len(judged.chunks))

    def work() -> list[TaskCounts]:
        workers = WorkerPool(wanted.num_workers, wanted.cpus_per_worker, wanted.gpus_per_worker)
        passes.each_by("scoring", every, functools.partial(Scorer, given), workers)
        limits = likelihood_pass.order_limits(given, passes.each)
        return passes.each("sifting", every, functools.partial(likelihood_pass.sift, given, limits))

    dropped: Counter[str] = Counter()
    for record in passes.once("perplexity", work):
        dropped.update(record["dropped"])
    judged.tally.dropped.update(dropped)
    sifted = replace(judged, num_unlikely=dropped.total())
    audit.check_not_empty(judged.tally, sifted.num_left)
    return sifted


def _judged(given: JudgingPass, passes: Passes) -> JudgedCorpus:
    spec = given.spec
    found = passes.once("judged", lambda: passes.judge(given))
    tally = RowCounts()
    for record in found:
        tally.add(RowCounts.from_json(record["tally"]))
    audit.check_readable(spec, tally, [row for record in found for row in record["first_bad"]])
    audit.check_not_empty(tally, tally.kept.total())
    records = sorted(found, key=lambda record: record["chunk"])
    first_ids = np.asarray([record["first_id"] for record in records], np.uint64)
    chunks = tuple(str(record["chunk"]) for record in records)
    return JudgedCorpus(spec, given.files, given.scratch, chunks, first_ids, given.num_buckets, tally)


def _compared(spec: Deduplication, judged: JudgedCorpus) -> DuplicatesPass:
    """Inputs of the duplicate passes: the new chunks, followed by those of earlier corpora."""
    if not judged.earlier:
        return DuplicatesPass(spec, judged.scratch, judged.chunks, judged.first_ids, judged.num_buckets)
    chunks = (*judged.chunks, *(str(piece.name) for piece in judged.earlier))
    earlier_ids = np.asarray([piece.first_id for piece in judged.earlier], np.uint64)
    first_ids = np.concatenate([judged.first_ids, earlier_ids])
    return DuplicatesPass(spec, judged.scratch, chunks, first_ids, judged.num_buckets, judged.earlier[0].first_id)


def _deduplicated(spec: CleanSpec, judged: JudgedCorpus, passes: Passes) -> JudgedCorpus:
    wanted = spec.deduplication
    if wanted is None:
        return judged
    given = _compared(wanted, judged)

    def work() -> list[TaskCounts]:
        buckets, chunks = range(given.num_buckets), range(len(given.chunks))
        pieces = judged.earlier

        def read_back(piece: int) -> TaskCounts:
            return earlier_corpora.read_back(wanted, judged.scratch, judged.num_buckets, pieces[piece])

        records = passes.each("reading earlier corpora", range(len(pieces)), read_back)
        records += passes.each("grouping", buckets, functools.partial(duplicate_passes.group, given))
        if wanted.near_duplicates:
            records += passes.each("fetching", chunks, functools.partial(duplicate_passes.fetch, given))
            records += passes.each("verifying", buckets, functools.partial(duplicate_passes.verify, given))
        return records + passes.each("clustering", [0], lambda _: duplicate_passes.cluster(given))

    found: Counter[str] = Counter()
    for record in passes.once("duplicates", work):
        found.update({name: value for name, value in record.items() if name != "item"})
    deduplicated = judged.without(given, dict(found))
    audit.check_not_empty(judged.tally, deduplicated.num_left)
    return deduplicated
