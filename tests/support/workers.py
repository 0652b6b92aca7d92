"""Runs small training jobs on gloo processes of their own, one job after the other in the same processes."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp

from rayloom.artifacts.store import Store
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.train.job import TrainJob
from rayloom.train.prepare import RESULT_NAME

IMPORTED = ("rayloom.pretrained", "deepspeed", "peft", "rayloom.train.loop.loop", "rayloom.train.engines.zero")


@dataclass
class Training:
    """One call of the loop: where, with which changes to the small spec, and at which step it dies."""

    folder: Path
    changes: dict[str, Any] = field(default_factory=dict)
    dies_at_step: int | None = None
    store: str | None = None
    """A store in which the work folder is copied: each worker is then a node of its own, with a disk of its own."""
    corpus: tuple[str, str] | None = None
    """Store and name of a corpus to stream instead of the small one, into a cache of each worker's own."""


class DeadError(Exception):
    """Stands for whatever ends a process between two steps."""


def run_on_workers(num_workers: int, trainings: Sequence[Training]) -> None:
    """Raises where a worker fails in another way than by dying as it should."""
    on_workers(num_workers, _work, list(trainings), dict(os.environ))


def on_workers(num_workers: int, work: Callable[..., None], *arguments: object) -> None:
    """Calls `work(rank, num_workers, port, *arguments)` in as many processes, which can meet at the port.

    They are forked off one process that has imported everything and computed nothing: each would take seconds for that.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.set_forkserver_preload(list(IMPORTED))
    given = (num_workers, port, *arguments)
    mp.start_processes(work, args=given, nprocs=num_workers, start_method="forkserver")  # type: ignore[no-untyped-call]


def run_alone(trainings: Sequence[Training]) -> None:
    """In this process, as its only worker."""
    for training in trainings:
        with _dying(training):
            _train(training)


def _work(rank: int, num_workers: int, port: int, trainings: list[Training], environment: dict[str, str]) -> None:
    import torch
    from torch import distributed as dist

    torch.set_num_threads(1)
    os.environ.update(environment)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(num_workers))
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    dist.init_process_group("gloo")
    for training in trainings:
        with _dying(training):
            _train(training)
        dist.barrier()
    dist.destroy_process_group()


@contextmanager
def _dying(training: Training) -> Iterator[None]:
    try:
        yield
    except DeadError:
        return
    if training.dies_at_step is not None:
        raise AssertionError(f"{training.folder.name} outlived step {training.dies_at_step}")


def _train(training: Training) -> None:
    import torch

    from rayloom.train.loop.loop import train
    from rayloom.train.process_group import current_group
    from support.training_jobs import small_job, streamed_job

    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        if training.dies_at_step is not None and asked > training.dies_at_step:
            raise DeadError
        return False

    node = training.folder / f"node-{os.environ.get('RANK', '0')}"
    if training.corpus is None:
        job = small_job(training.folder, **training.changes)
    else:
        os.environ["RAYLOOM_CACHE"] = str(node)
        job = streamed_job(training.folder, *training.corpus, **training.changes)
    if training.store is not None:
        job = on_own_disk(job, training.store, node)
    train(job, current_group(torch.device("cpu")), lambda event: None, should_stop)


def on_own_disk(job: TrainJob, store: str, disk: Path) -> TrainJob:
    """The job as a node sees it that shares nothing with others but the store."""
    copy = WorkCopy(Store(store, cache=disk), "small", "0")
    copy.folder.mkdir(parents=True, exist_ok=True)
    return replace(job, work=copy.folder, out=copy.folder / RESULT_NAME, copy=copy)
