"""Workers of a trial with several: its own process is the first, the others are actors on its remaining bundles.

So are the engines that write a policy's answers.

They are reused by the next trial of the process, with modules loaded and the process group joined.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rayloom.artifacts.store import Artifact
from rayloom.observe.ports import free_port
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.endurance import Workers
from rayloom.train.job import TrainJob

if TYPE_CHECKING:
    from rayloom.train.rollouts.asking import Asker
    from rayloom.tune.trials.trial import Asking

GRACE_SECONDS = 20.0
"""How long this process has to notice a lost worker by itself, before it is killed."""


@functools.cache
def trial_workers_of(workers: Workers) -> TrialWorkers:
    """The other workers of this process' trials, started once; they live as long as the process."""
    return TrialWorkers(workers)


_engines: dict[str, list[Any]] = {}
"""The engines of this process' trials, by what they were started for; they end with the process."""


def asking_of(spec: TrainSpec, parents: Mapping[str, Artifact], job_directory: Path) -> Asking | None:
    """How the first worker of a trial gets answers: by engines, which the next trial uses too if it needs the same."""
    if spec.rollouts is None:
        return None
    from rayloom.train.rollouts.actors import asker_of, start_engines

    wanted = f"{spec.rollouts!r} {spec.adapter!r} {spec.precision} {spec.sequence_length_tokens} {spec.seed}"
    if wanted not in _engines:
        for engine in (one for engines in _engines.values() for one in engines):
            ray.kill(engine)
        _engines.clear()
        _engines[wanted] = start_engines(spec, parents["base"])
    engines = _engines[wanted]

    def asking(job: TrainJob, own: Mapping[str, Artifact]) -> AbstractContextManager[Asker]:
        return asker_of(job, own, engines, job_directory)

    return asking


class TrialWorkers:
    """The other workers of this process' trials."""

    def __init__(self, workers: Workers) -> None:
        """Starts the workers and joins one process group with them, as rank 0."""
        group = get_current_placement_group()
        actor = ray.remote(num_cpus=workers.cpus_per_worker, num_gpus=workers.gpus_per_worker)(TrialWorker)
        self._members = [
            actor.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, bundle)).remote()
            for bundle in range(1, workers.num_workers)
        ]
        address = f"tcp://{ray.util.get_node_ip_address()}:{free_port()}"
        joined = [
            member.join.remote(address, rank, workers.num_workers) for rank, member in enumerate(self._members, start=1)
        ]
        _join(address, 0, workers.num_workers, bool(workers.gpus_per_worker))
        ray.get(joined)
        self._training: list[ray.ObjectRef] = []

    def begin(self, job: TrainJob, parents: Mapping[str, Artifact]) -> None:
        """Starts the training in the other workers; this process starts it itself."""
        self._training = [member.train.remote(job, dict(parents)) for member in self._members]
        threading.Thread(target=self._watch, args=(self._training,), name="trial-workers-watch", daemon=True).start()

    def end(self, within_seconds: float | None = None) -> list[BaseException]:
        """Waits for the others and returns their errors. Those still running after `within_seconds` are killed.

        A training that was asked to stop has no error.
        """
        training, self._training = self._training, []
        done, waiting = ray.wait(training, num_returns=len(training), timeout=within_seconds)
        for member, reference in zip(self._members, training, strict=True):
            if reference in waiting:
                ray.kill(member)
        return [error for error in map(_error_of, done) if error is not None]

    def _watch(self, training: list[ray.ObjectRef]) -> None:
        """Kills this process if it still waits for a lost worker: not every collective operation notices the loss."""
        waiting = list(training)
        while waiting:
            done, waiting = ray.wait(waiting)
            if _error_of(done[0]) is not None:
                time.sleep(GRACE_SECONDS)
                if self._training is training:
                    os._exit(1)
                return


class TrialWorker:
    """One of the other workers, in a process of its own."""

    def __init__(self) -> None:
        self._device: Any = None

    def join(self, address: str, rank: int, num_workers: int) -> None:
        self._device = _join(address, rank, num_workers, bool(ray.get_gpu_ids()))

    def train(self, job: TrainJob, parents: Mapping[str, Artifact]) -> None:
        """Trains with the others."""
        import torch

        from rayloom.errors import InterruptedJobError
        from rayloom.train.loop.loop import train
        from rayloom.train.prepare import on_this_node
        from rayloom.train.process_group import current_group

        torch.set_num_threads(job.spec.workers.cpus_per_worker)
        try:
            train(on_this_node(job, parents), current_group(self._device), lambda _: None)
        except InterruptedJobError:
            return


def _join(address: str, rank: int, num_workers: int, has_gpu: bool) -> Any:
    """Joins the process group and returns the device of this process."""
    # DeepSpeed, which transformers can import, would look for GPUs and warn that there are none.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if has_gpu else "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")  # each process sees its own device only
    import torch
    from torch import distributed

    backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
    distributed.init_process_group(backend, init_method=address, rank=rank, world_size=num_workers)
    return torch.device("cuda" if has_gpu else "cpu")


def _error_of(reference: ray.ObjectRef) -> BaseException | None:
    try:
        ray.get(reference)
    except BaseException as error:  # noqa: BLE001 - the caller handles any error of a worker
        return error
    return None
