"""Passes on Ray: chunks stream from reading to judging tasks through Ray Data; later passes are tasks that exchange.

The work of the tasks is in the other files of this folder and needs no Ray. What a pass leaves are files named by chunk
or group, so they do not depend on the number of CPUs or the order in which tasks finish.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, cast

import ray
import ray.data

from rayloom.data.exchange.levels import Parcels
from rayloom.data.exchange.mail import Mail
from rayloom.data.exchange.work_files import WorkFiles
from rayloom.data.filter_pass import Judging, JudgingPass
from rayloom.data.passes import Exchange, MailedWork, TaskCounts, Work, WorkerPool
from rayloom.data.ray_exchange import pack_error, raise_packed, send_and_receive
from rayloom.data.row_counts import RowCounts, by_part, later_drops
from rayloom.data.sources.chunks import ChunkName, RawChunk
from rayloom.data.sources.source_files import InputFile, read_chunks, reading_jobs
from rayloom.errors import RayloomError
from rayloom.observe.progress import progress
from rayloom.observe.ray_metrics import DataMetrics
from rayloom.observe.ray_session import Session
from rayloom.specs.clean import CleanSpec

MAX_BLOCKS = 1024
"""Most blocks in which Ray Data is given lists of files, or groups to score."""
TASKS_PER_CPU = 4
"""Tasks that are submitted for each CPU of a cluster and not finished, so that none waits for the driver."""
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

    def __init__(self, name: str, files: WorkFiles, session: Session) -> None:
        self.name, self.files, self.session = name, files, session
        self.seconds: dict[str, float] = {}
        self._metrics = DataMetrics(name)
        self._works: list[ray.ObjectRef] = []
        """The functions of all stages: a lost object is computed again with them."""

    @property
    def _window(self) -> int:
        """Tasks to submit at once. An embedded cluster has more CPUs than cores; another may have grown meanwhile."""
        if self.session.is_embedded:
            return self.session.num_cores
        return TASKS_PER_CPU * max(self.session.num_cores, int(ray.cluster_resources().get("CPU", 0)))

    def once(self, name: str, work: Callable[[], TaskCounts]) -> TaskCounts:
        started = time.monotonic()
        record = self.files.load_json(name)
        if record is None:
            record = work()
            self.files.save_json(name, record)
        self.seconds[name] = round(time.monotonic() - started, 2)
        return dict(record)

    def each(self, label: str, items: Sequence[int], work: Work) -> list[TaskCounts]:
        return self.exchange(label, items, functools.partial(_without_mail, work))[0]

    def exchange(
        self,
        label: str,
        items: Sequence[int],
        work: MailedWork,
        *,
        reads: Sequence[Exchange] = (),
        writes: Mapping[str, int] | None = None,
    ) -> tuple[list[TaskCounts], dict[str, Exchange]]:
        found: dict[int, TaskCounts] = {}
        with progress(f"{self.name}: {label}", len(items), "parts") as bar:

            def keep(place: int, record: TaskCounts) -> None:
                found[place] = record
                self._metrics.count(0, 0, later_drops(record), {})
                bar.advance()

            self._works.append(ray.put(work))
            read = cast("Sequence[Parcels]", reads)
            made = send_and_receive(items, self._works[-1], read, writes or {}, self._window, keep)
        return [found[place] for place in range(len(items))], dict(made)

    def each_by(
        self, label: str, items: Sequence[int], make: Callable[[], Work], workers: WorkerPool
    ) -> list[TaskCounts]:
        pool = ray.data.ActorPoolStrategy(size=min(workers.count, len(items)))
        given = {"fn_constructor_args": (make,), "compute": pool, "num_cpus": workers.cpus, "num_gpus": workers.gpus}
        dataset = ray.data.from_items(
            [{"item": item} for item in items], override_num_blocks=min(len(items), MAX_BLOCKS)
        )
        found: dict[int, TaskCounts] = {}
        with progress(f"{self.name}: {label}", len(items), "parts") as bar:
            for record in _results(dataset.map(_Worker, **given)):
                found[record["item"]] = record
                bar.advance()
        return [found[item] for item in items]

    def judge(self, given: JudgingPass) -> Iterator[TaskCounts]:
        """Reads all files and judges their rows."""
        jobs = reading_jobs(given.spec, given.files)
        # On other clusters Ray Data takes the CPUs that there are, also those that an autoscaler adds.
        most = self.session.num_cores if self.session.is_embedded else None
        dataset = (
            ray.data.from_items(
                [{"files": json.dumps([asdict(f) for f in files])} for files in jobs],
                override_num_blocks=min(len(jobs), MAX_BLOCKS),
            )
            .flat_map(
                functools.partial(_read, given.spec), num_cpus=READER_CPUS, concurrency=most and min(most, len(jobs))
            )
            .map(functools.partial(_judge, given), num_cpus=1, concurrency=most)
        )
        size_bytes = sum(file.size_bytes for file in given.files)
        rows, started = 0, time.monotonic()
        with progress(f"{self.name}: reading and judging", size_bytes, "bytes") as bar:
            for record in _results(dataset):
                tally = RowCounts.from_json(record["tally"])
                rows += tally.rows_in.total()
                self._metrics.count(
                    tally.rows_in.total(), record["bytes_read"], by_part(tally.dropped, 1), by_part(tally.bad_rows, 1)
                )
                rate = (bar.done + record["bytes_read"]) / (time.monotonic() - started) / 1e6
                bar.advance(record["bytes_read"], f"{rows:,} rows, {rate:.1f} MB/s")
                yield record


# -- what Ray runs; an error for a person comes back as a row, for Ray would bury it in one of its own -----------------


def _without_mail(work: Work, item: int, _: Mail) -> TaskCounts:
    return work(item)


class _Worker:
    """An actor that makes its function once; if that fails, every row returns the error."""

    def __init__(self, make: Callable[[], Work]) -> None:
        self._failed, self._work = "", None
        try:
            self._work = make()
        except RayloomError as error:
            self._failed = pack_error(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        work, item = self._work, int(row["item"])
        if work is None:
            return {"record": "", "error": self._failed}
        return _guarded(lambda: work(item) | {"item": item})


def _read(spec: CleanSpec, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        for chunk in read_chunks(spec, [InputFile(**file) for file in json.loads(row["files"])]):
            yield chunk.as_ray_row() | {"error": ""}
    except RayloomError as error:
        yield RawChunk(ChunkName(0, 0)).as_ray_row() | {"error": pack_error(error)}


def _judge(given: JudgingPass, row: dict[str, Any]) -> dict[str, Any]:
    if row["error"]:
        return {"record": "", "error": row["error"]}
    chunk = RawChunk.from_ray_row(row)
    return _guarded(lambda: Judging(given)(chunk) | {"bytes_read": chunk.bytes_read})


def _guarded(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"record": json.dumps(work()), "error": ""}
    except RayloomError as error:
        return {"record": "", "error": pack_error(error)}


def _results(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    for row in dataset.iter_rows():
        raise_packed(row["error"])
        yield dict(json.loads(row["record"]))
