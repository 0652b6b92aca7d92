"""`kind: clean` on Ray Data: the passes one after the other, each resumable, none holding the corpus.

Ray Data streams raw chunks from the tasks that read to the tasks that judge, and runs the tasks of the later passes.
What they do is in the other files of this room and needs no Ray; what they leave is on disk, in files named by chunk or
bucket, so that neither the number of CPUs nor the order of arrival can be seen in the result.
"""

from __future__ import annotations

import functools
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data

from rayloom import errors
from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import Outcome
from rayloom.data import duplicates, evidence, samples, sharding, tokenising
from rayloom.data.chunks import ChunkName, RawChunk
from rayloom.data.duplicates import DuplicatesPass
from rayloom.data.inputs import InputFile, input_files, read_chunks, reading_jobs
from rayloom.data.judging import Judging, JudgingPass
from rayloom.data.scratch import Scratch
from rayloom.data.sharding import ShardPlan
from rayloom.data.tally import Tally
from rayloom.data.tokenising import SPLITS, TokenisingPass
from rayloom.data.tokenizer_folder import copy_tokenizer
from rayloom.errors import RayloomError
from rayloom.observe.progress import progress, say
from rayloom.observe.ray_session import Session, connect
from rayloom.specs.clean import CleanSpec, TrainTokenizer
from rayloom.text.shards import save_index, shard_facts
from rayloom.text.tokenizer_digest import tokenizer_digest

BYTES_PER_BUCKET = 256 << 20
MIN_BUCKETS = 4
READER_CPUS = 0.1
"""A reader mostly waits for those who judge; a share of its own also keeps Ray from running both in one task."""


def run(spec: CleanSpec, build: Build) -> Outcome:
    """Cleans, deduplicates, splits, tokenises and packs the sources."""
    files = input_files(spec, build.parents)
    session = connect()
    with _ray_data(spec):
        return _Run(spec, build, files, session).outcome()


@contextmanager
def _ray_data(spec: CleanSpec) -> Iterator[None]:
    """Ray Data's settings for these passes; what others set comes back at the end."""
    context = ray.data.DataContext.get_current()
    kept = (context.enable_progress_bars, context.target_max_block_size)
    logger = logging.getLogger("ray.data")
    level = logger.level
    # One chunk a block, so that a chunk is judged as soon as it was read.
    context.enable_progress_bars, context.target_max_block_size = False, spec.chunk_bytes
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars, context.target_max_block_size = kept
        logger.setLevel(level)


class _Run:
    """The passes of one job and what they have found so far."""

    def __init__(self, spec: CleanSpec, build: Build, files: tuple[InputFile, ...], session: Session) -> None:
        self.spec, self.build, self.files, self.session = spec, build, files, session
        self.scratch = Scratch(build.work / f"chunks-of-{spec.chunk_bytes}")
        self.size_bytes = sum(file.size_bytes for file in files)
        self.num_buckets = max(MIN_BUCKETS, -(-self.size_bytes // BYTES_PER_BUCKET))
        self.seconds: dict[str, float] = {}
        if build.is_resumed:
            say(f"{spec.name}: continuing what an earlier run left")

    def outcome(self) -> Outcome:
        spec = self.spec
        judged = self._pass("judged", self._judge)
        tally = Tally()
        for record in judged:
            tally.add(Tally.from_json(record["tally"]))
        evidence.check_readable(spec, tally, [said for record in judged for said in record["first_bad"]])
        evidence.check_not_empty(tally, tally.kept.total())
        records = sorted(judged, key=lambda record: record["chunk"])
        chunks = tuple(str(record["chunk"]) for record in records)
        first_ids = np.asarray([record["first_id"] for record in records], np.uint64)
        given, found = self._deduplicate(chunks, first_ids)
        num_left = tally.kept.total() - sum(found.get(f"{kind}_duplicates", 0) for kind in ("exact", "near"))
        evidence.check_not_empty(tally, num_left)
        tokens = TokenisingPass(spec, self.files, self.scratch, chunks, given, num_left)
        self._prepare_tokenizer(tokens)
        tokenise = functools.partial(tokenising.tokenise, tokens)
        counted = self._pass("tokens", lambda: self._each("tokenising", range(len(chunks)), tokenise))
        evidence.check_both_splits(spec, {s: sum(record["documents"][s] for record in counted) for s in SPLITS})
        self._write_shards(chunks)
        return self._finish(tally, found, chunks, counted)

    # -- passes --------------------------------------------------------------------------------------------------------

    def _pass(self, name: str, work: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """What the pass found: from an earlier run where that finished it, else from doing it."""
        started = time.monotonic()
        records = self.scratch.load_json(name)
        if records is None:
            records = work()
            self.scratch.save_json(name, records)
        self.seconds[name] = round(time.monotonic() - started, 2)
        return list(records)

    def _judge(self) -> list[dict[str, Any]]:
        given = JudgingPass(self.spec, self.files, self.scratch, self.num_buckets)
        jobs = reading_jobs(self.spec, self.files)
        readers = min(self.session.num_cores, len(jobs))
        dataset = (
            ray.data.from_items(
                [{"files": json.dumps([asdict(f) for f in files])} for files in jobs], override_num_blocks=len(jobs)
            )
            .flat_map(functools.partial(_read, self.spec), num_cpus=READER_CPUS, concurrency=readers)
            .map(functools.partial(_judge, given), num_cpus=1, concurrency=self.session.num_cores)
        )
        records, rows, started = [], 0, time.monotonic()
        with progress(f"{self.spec.name}: reading and judging", self.size_bytes, "bytes") as bar:
            for record in _results(dataset):
                records.append(record)
                rows += sum(record["tally"]["rows_in"].values())
                rate = (bar.done + record["bytes_read"]) / (time.monotonic() - started) / 1e6
                bar.advance(record["bytes_read"], f"{rows:,} rows, {rate:.1f} MB/s")
        return records

    def _each(self, label: str, items: Sequence[int], work: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
        """What `work` returns for every item, in the order of the items."""
        dataset = ray.data.from_items([{"item": item} for item in items], override_num_blocks=len(items)).map(
            functools.partial(_work, work), num_cpus=1, concurrency=min(self.session.num_cores, len(items))
        )
        found: dict[int, dict[str, Any]] = {}
        with progress(f"{self.spec.name}: {label}", len(items), "parts") as bar:
            for record in _results(dataset):
                found[record["item"]] = record
                bar.advance()
        return [found[item] for item in items]

    def _deduplicate(self, chunks: tuple[str, ...], first_ids: Any) -> tuple[DuplicatesPass | None, dict[str, int]]:
        wanted = self.spec.deduplication
        if wanted is None:
            return None, {}
        given = DuplicatesPass(wanted, self.scratch, chunks, first_ids, self.num_buckets)

        def work() -> list[dict[str, Any]]:
            buckets = range(self.num_buckets)
            records = self._each("grouping", buckets, functools.partial(duplicates.group, given))
            if wanted.near_duplicates:
                records += self._each("fetching", range(len(chunks)), functools.partial(duplicates.fetch, given))
                records += self._each("verifying", buckets, functools.partial(duplicates.verify, given))
            return records + self._each("clustering", [0], lambda _: duplicates.cluster(given))

        found: Counter[str] = Counter()
        for record in self._pass("duplicates", work):
            found.update({name: value for name, value in record.items() if name != "item"})
        return given, dict(found)

    def _prepare_tokenizer(self, given: TokenisingPass) -> None:
        wanted = self.spec.output.tokenizer
        if not isinstance(wanted, TrainTokenizer):
            model = self.build.parents["output.tokenizer.model"].path
            copy_tokenizer(model, given.tokenizer_folder, wanted.new_terms)
            return

        def work() -> list[dict[str, Any]]:
            choose = functools.partial(tokenising.sample, given, sample_documents=wanted.sample_documents)
            self._each("sampling for the tokenizer", range(len(given.chunks)), choose)
            size = wanted.vocabulary_size
            return self._each("training the tokenizer", [0], lambda _: tokenising.train_tokenizer(given, size))

        self._pass("tokenizer", work)

    # -- results -------------------------------------------------------------------------------------------------------

    def _write_shards(self, chunks: tuple[str, ...]) -> None:
        import transformers

        folder = self.scratch.folder("tokens")
        tokenizer_folder = self.build.directory / "tokenizer"
        shutil.copytree(self.scratch.folder("tokenizer"), tokenizer_folder, dirs_exist_ok=True)
        dtype = tokenising.Encoder(tokenizer_folder).dtype
        tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
        facts = shard_facts(len(tokenizer), tokenizer_digest(tokenizer), None)
        for split in SPLITS:
            target = self.build.directory / split
            target.mkdir(exist_ok=True)
            plans = sharding.planned(folder, chunks, split, self.spec.output.shard_tokens)
            write = functools.partial(_write_shard, folder, target, plans, dtype)
            self._each(f"packing {split}", range(len(plans)), write)
            save_index(target, facts | {"has_rows": False, "shards": [plan.facts for plan in plans]})

    def _finish(
        self, tally: Tally, found: dict[str, int], chunks: tuple[str, ...], counted: list[dict[str, Any]]
    ) -> Outcome:
        judged, tokens, target = self.scratch.folder("judged"), self.scratch.folder("tokens"), self.build.directory
        evidence.gather(judged, chunks, "rejects.jsonl", target / "rejects" / "rules.jsonl")
        evidence.gather(judged, chunks, "quarantine.jsonl", target / "rejects" / "unreadable.jsonl")
        evidence.gather(tokens, chunks, "rejects.jsonl", target / "rejects" / "duplicates.jsonl")
        files = [folder / f"{chunk}.samples.jsonl" for folder in (judged, tokens) for chunk in chunks]
        evidence.save(target / "samples.json", samples.merged(files, self.spec.sample_rows_per_reason))
        counts: Counter[str] = Counter()
        for record in counted:
            counts.update(record["counts"])
        numbers = evidence.metrics(self.spec, tally, found, counts)
        evidence.save(target / "corpus.json", numbers)
        for line in evidence.lines(numbers):
            say(line)
        numbers |= {"seconds": self.seconds, "input_bytes": self.size_bytes}
        return Outcome("corpus", numbers, headline=evidence.headline(numbers))


# -- what Ray runs; an error for a person comes back as a row, for Ray would bury it in one of its own -----------------


def _read(spec: CleanSpec, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        for chunk in read_chunks(spec, [InputFile(**file) for file in json.loads(row["files"])]):
            yield chunk.as_ray_row() | {"error": ""}
    except RayloomError as error:
        yield RawChunk(ChunkName(0, 0)).as_ray_row() | {"error": _packed(error)}


def _judge(given: JudgingPass, row: dict[str, Any]) -> dict[str, Any]:
    if row["error"]:
        return {"record": "", "error": row["error"]}
    chunk = RawChunk.from_ray_row(row)
    return _guarded(lambda: Judging(given)(chunk) | {"bytes_read": chunk.bytes_read})


def _work(work: Callable[[int], dict[str, Any]], row: dict[str, Any]) -> dict[str, Any]:
    item = int(row["item"])
    return _guarded(lambda: work(item) | {"item": item})


def _guarded(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"record": json.dumps(work()), "error": ""}
    except RayloomError as error:
        return {"record": "", "error": _packed(error)}


def _packed(error: RayloomError) -> str:
    return json.dumps([type(error).__name__, error.what, error.where, error.fix])


def _results(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    for row in dataset.iter_rows():
        if row["error"]:
            name, what, where, fix = json.loads(row["error"])
            raise getattr(errors, name)(what, where=where, fix=fix)
        yield dict(json.loads(row["record"]))


def _write_shard(folder: Path, target: Path, plans: list[ShardPlan], dtype: Any, item: int) -> dict[str, Any]:
    sharding.write_shard(folder, target, plans[item], dtype)
    return {}
