"""Passes on Ray Data: raw chunks stream from reading tasks to judging tasks; later passes map over chunk numbers.

The work of the tasks is in the other files of this folder and needs no Ray. Results are files named by chunk or bucket,
so they do not depend on the number of CPUs or the order in which tasks finish.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import ray
import ray.data

from rayloom import errors
from rayloom.data.exchange.scratch import Scratch
from rayloom.data.filter_pass import Judging, JudgingPass
from rayloom.data.passes import TaskCounts, Work, WorkerPool
from rayloom.data.row_counts import RowCounts, by_part, later_drops
from rayloom.data.sources.chunks import ChunkName, RawChunk
from rayloom.data.sources.source_files import InputFile, read_chunks, reading_jobs
from rayloom.errors import RayloomError
from rayloom.observe.progress import progress
from rayloom.observe.ray_metrics import DataMetrics
from rayloom.specs.clean import CleanSpec

MAX_TASKS = 1024
"""Most tasks of one pass; if there are more chunks or buckets, a task does several."""
READER_CPUS = 0.1
"""A reading task mostly waits for judging tasks. A different request also keeps Ray Data from fusing the two."""


@contextmanager
def ray_data(block_bytes: int) -> Iterator[None]:
    """Applies Ray Data's settings for these passes, and restores the previous ones at the end."""
    context = ray.data.DataContext.get_current()
    kept = (context.enable_progress_bars, context.target_max_block_size)
    logger = logging.getLogger("ray.data")
    level = logger.level
    # One chunk a block, so that a chunk is judged as soon as it is read.
    context.enable_progress_bars, context.target_max_block_size = False, block_bytes
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars, context.target_max_block_size = kept
        logger.setLevel(level)


class RayPasses:
    """The passes of one job on the cluster; `seconds`: the duration of each."""

    def __init__(self, name: str, scratch: Scratch, num_cores: int) -> None:
        self.name, self.scratch, self.num_cores = name, scratch, num_cores
        self.seconds: dict[str, float] = {}
        self._metrics = DataMetrics(name)

    def once(self, name: str, work: Callable[[], list[TaskCounts]]) -> list[TaskCounts]:
        started = time.monotonic()
        records = self.scratch.load_json(name)
        if records is None:
            records = work()
            self.scratch.save_json(name, records)
        self.seconds[name] = round(time.monotonic() - started, 2)
        return list(records)

    def each(self, label: str, items: Sequence[int], work: Work) -> list[TaskCounts]:
        if not items:
            return []
        workers = min(self.num_cores, len(items))
        return self._collected(
            label, items, _numbers(items).map(functools.partial(_work, work), num_cpus=1, concurrency=workers)
        )

    def each_by(
        self, label: str, items: Sequence[int], make: Callable[[], Work], workers: WorkerPool
    ) -> list[TaskCounts]:
        pool = ray.data.ActorPoolStrategy(size=min(workers.count, len(items)))
        given = {"fn_constructor_args": (make,), "compute": pool, "num_cpus": workers.cpus, "num_gpus": workers.gpus}
        return self._collected(label, items, _numbers(items).map(_Worker, **given))

    def _collected(self, label: str, items: Sequence[int], dataset: ray.data.Dataset) -> list[TaskCounts]:
        found: dict[int, TaskCounts] = {}
        with progress(f"{self.name}: {label}", len(items), "parts") as bar:
            for record in _results(dataset):
                found[record["item"]] = record
                self._metrics.count(0, 0, later_drops(record), {})
                bar.advance()
        return [found[item] for item in items]

    def judge(self, given: JudgingPass) -> list[TaskCounts]:
        """Reads all files and judges their rows."""
        jobs = reading_jobs(given.spec, given.files)
        dataset = (
            ray.data.from_items(
                [{"files": json.dumps([asdict(f) for f in files])} for files in jobs], override_num_blocks=len(jobs)
            )
            .flat_map(
                functools.partial(_read, given.spec), num_cpus=READER_CPUS, concurrency=min(self.num_cores, len(jobs))
            )
            .map(functools.partial(_judge, given), num_cpus=1, concurrency=self.num_cores)
        )
        size_bytes = sum(file.size_bytes for file in given.files)
        records, rows, started = [], 0, time.monotonic()
        with progress(f"{self.name}: reading and judging", size_bytes, "bytes") as bar:
            for record in _results(dataset):
                records.append(record)
                tally = RowCounts.from_json(record["tally"])
                rows += tally.rows_in.total()
                self._metrics.count(
                    tally.rows_in.total(), record["bytes_read"], by_part(tally.dropped, 1), by_part(tally.bad_rows, 1)
                )
                rate = (bar.done + record["bytes_read"]) / (time.monotonic() - started) / 1e6
                bar.advance(record["bytes_read"], f"{rows:,} rows, {rate:.1f} MB/s")
        return records


# -- what Ray runs; an error for a person comes back as a row, for Ray would bury it in one of its own -----------------


def _numbers(items: Sequence[int]) -> ray.data.Dataset:
    # A corpus of many small files has many small chunks: a task for each would take longer than its work.
    num_blocks = min(len(items), MAX_TASKS)
    return ray.data.from_items([{"item": item} for item in items], override_num_blocks=num_blocks)


class _Worker:
    """An actor that makes its function once; if that fails, every row returns the error."""

    def __init__(self, make: Callable[[], Work]) -> None:
        self._failed, self._work = "", None
        try:
            self._work = make()
        except RayloomError as error:
            self._failed = _packed(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"record": "", "error": self._failed} if self._work is None else _work(self._work, row)


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
