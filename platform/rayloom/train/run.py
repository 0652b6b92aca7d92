"""Training on Ray: starts and restarts Ray Train's workers, shows their events, and publishes the result."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.errors import InterruptedJobError, ResourceError
from rayloom.observe.progress import progress, say
from rayloom.observe.ray_metrics import TrainingMetrics
from rayloom.observe.ray_session import Session, connect, is_on_cluster
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.endurance import Workers
from rayloom.train.driver_mailbox import Mailbox
from rayloom.train.failures import (
    Attempts,
    Cause,
    Failure,
    Stop,
    after_failure,
    first_cause,
    note_micro_batch,
    noted_micro_batch,
)
from rayloom.train.job import TrainJob
from rayloom.train.loop.run_log import read_log
from rayloom.train.prepare import RESULT_NAME, job_with_rows
from rayloom.train.publish import publish
from rayloom.train.ray_worker import POLL_SECONDS, train_in_worker
from rayloom.train.reporting.trackers import Following, TrackedRun, TrainingProgress, opened
from rayloom.train.row_tasks import RayTasks
from rayloom.train.settings import note, runs_with_other_settings
from rayloom.train.sizes.disk import check_room
from rayloom.train.sizes.model_size import size_of_job

STOP_WITHIN_SECONDS = 120.0


def run(spec: TrainSpec, build: Build) -> Outcome:
    """Trains from the work folder's newest checkpoint, if any, and publishes the finished model."""
    copy = WorkCopy(build.store, spec.name, build.version)
    for name in ("finished", "metrics.jsonl"):
        copy.fetch(name)
    workers = RayTasks(connect().num_cores) if is_on_cluster() else None
    job = job_with_rows(spec, build.parents, build.work, build.work / RESULT_NAME, copy, workers)
    if copy.is_needed:
        job = replace(job, copy=copy)
    if not job.finished.exists():
        check_room(job, size_of_job(job))
        for line in runs_with_other_settings(spec, build.store):
            say(line)
        note(spec, build.work)
        _check_resources(connect(), spec)
        if spec.rewards is not None:
            from rayloom.train.rollouts.turns import check_functions

            check_functions(spec, build.parents, build.job_directory)
        with opened(TrackedRun(spec, build.version, build.job_directory)) as trackers, _engines(job, build) as engines:
            _train_until_done(job, build, trackers, engines)
        copy.replace(job.finished.name)
        copy.replace(job.log.name)
    return publish(job, build)


@contextmanager
def _engines(job: TrainJob, build: Build) -> Iterator[list[Any]]:
    """The actors that write a policy's answers; none for other training."""
    if job.spec.policy is None:
        yield []
        return
    from rayloom.train.rollouts.actors import ActorWriters, start_engines

    engines = start_engines(job.spec, build.parents["base"])
    try:
        if job.spec.rollouts is not None and job.spec.rollouts.sleeps:
            ActorWriters(engines).wait()
            ActorWriters(engines).sleep()  # before workers come onto their GPUs
        yield engines
    finally:
        for engine in engines:
            ray.kill(engine)


def _share_of_engine(spec: TrainSpec) -> float:
    """Of a worker's GPU, what an engine that sleeps there holds for Ray."""
    if spec.rollouts is None or not spec.rollouts.sleeps:
        return 0.0
    from rayloom.train.rollouts.actors import SLEEPING_GPU_SHARE

    return SLEEPING_GPU_SHARE


def _check_resources(session: Session, spec: TrainSpec) -> None:
    workers = spec.workers
    wanted = workers.fewest * workers.cpus_per_worker
    gpus = int(sum(bundle.gpus for bundle in spec.bundles()))
    has_gpus = int(ray.cluster_resources().get("GPU", 0))
    if session.is_embedded and wanted > session.num_cores:
        what = f"{workers.fewest} workers of {workers.cpus_per_worker} CPUs need {wanted}; this machine has "
        fix = "Lower workers.num_workers or workers.cpus_per_worker, or run on a cluster (RAY_ADDRESS)."
        raise ResourceError(what + str(session.num_cores), where=session.address, fix=fix)
    if gpus > has_gpus and session.is_embedded:
        what = f"{gpus} GPUs are asked for; this machine has {has_gpus}"
        fix = "Set workers.gpus_per_worker (and rollouts.gpus_per_engine) to 0, or run on a cluster."
        raise ResourceError(what, where=session.address, fix=fix)
    cpus = int(sum(bundle.cpus for bundle in spec.bundles()))
    if session.is_embedded and cpus > int(ray.cluster_resources().get("CPU", 0)):
        what = f"Workers and engines of their own (rollouts.placement) need {cpus} CPUs, more than this machine has"
        raise ResourceError(what, where=session.address, fix="Lower them, or set rollouts.placement: shared.")
    if wanted > int(ray.cluster_resources().get("CPU", 0)) or gpus > has_gpus:
        say(f"{spec.name}: waiting for {wanted} CPUs and {gpus} GPUs; the cluster has fewer at the moment")


def _train_until_done(job: TrainJob, build: Build, trackers: Sequence[Following], engines: Sequence[Any] = ()) -> None:
    """Starts workers, and restarts them if `after_failure` decides so, until training is done."""
    attempts = Attempts.first(job)
    smaller, full = noted_micro_batch(job), job.spec.micro_batch_sequences
    if smaller < full:
        say(f"{job.spec.name}: went on with micro_batch_sequences {smaller} when memory ran out; trying {full} again")
        note_micro_batch(job, full)
    while True:
        failure = _train_on_ray(attempts.job, build, trackers, engines)
        if failure is None:
            return
        decision = after_failure(job.spec.faults, failure, noted_micro_batch(job), attempts.num_restarts)
        if isinstance(decision, Stop):
            raise decision.error
        say(f"{job.spec.name}: {decision.why}")
        attempts.restart(decision, failure.cause is Cause.OUT_OF_MEMORY)


def timed(job: TrainJob, build: Build, num_steps: int) -> list[dict[str, Any]]:
    """The log of the job's first steps, without held-out rows. Raises the error of a worker that failed."""
    _check_resources(connect(), job.spec)
    spec = job.spec.model_copy(update={"early_stopping": None, "evaluate_every_steps": None})
    short = replace(job, spec=spec, heldout={}, num_rows=num_steps * spec.rows_per_step)
    failure = _train_on_ray(short, build, (), ())
    if failure is not None:
        raise failure.error
    if job.copy is not None:
        job.copy.replace(job.log.name)
    return list(read_log(job.log))


def _train_on_ray(job: TrainJob, build: Build, trackers: Sequence[Following], engines: Sequence[Any]) -> Failure | None:
    """Runs the loop on Ray Train's workers and shows events; returns the failure, or None if training is done."""
    # On this process' node, so that the loss of another node does not take the mailbox with it and end the run.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote()
    fit = _Fit(job, build, mailbox, connect(), engines)
    fit.start()
    workers = job.spec.workers
    fewest = f" ({workers.min_workers} at least)" if workers.min_workers else ""
    say(f"{job.spec.name}: starting {workers.num_workers} workers{fewest} of {workers.cpus_per_worker} CPUs")
    with progress(f"training {job.spec.name}", job.num_steps, "steps") as bar:
        shown, metrics = TrainingProgress(job, bar, trackers), TrainingMetrics(job.spec.name)

        def show() -> None:
            events = ray.get(mailbox.take.remote())
            shown.show(events)
            metrics.show(events)

        try:
            while not fit.ended.wait(POLL_SECONDS):
                show()
        except KeyboardInterrupt:
            say(f"{job.spec.name}: stopping after this step, with a checkpoint")
            mailbox.ask_to_stop.remote()
            fit.ended.wait(STOP_WITHIN_SECONDS)
        show()
    ray.kill(mailbox)
    if not fit.ended.is_set():
        raise InterruptedJobError("Training did not stop in time", fix="Run it again; it continues at its checkpoint.")
    if fit.error is None:
        return None
    return first_cause([fit.error])


def most_workers(workers: Workers, session: Session) -> int:
    """Number of workers to start: if `min_workers` is set, an embedded cluster starts no more than it has cores for."""
    if workers.min_workers is None or not session.is_embedded:
        return workers.num_workers
    return max(workers.min_workers, min(workers.num_workers, session.num_cores // workers.cpus_per_worker))


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Ray Train's, without processes that would have nothing to do: each takes 3 CPU seconds to start, in every run.

    Those are the manager of Ray Data's data sets, since our rows come from files, and on a cluster that ends with the
    command, which has no dashboard, the actor that asks the dashboard every second whether the controller is alive.
    """

    def __init__(self, *arguments: Any, session: Session, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._unused = (DatasetsCallback, PlacementGroupCleanerCallback)[: 2 if session.ends_with_command else 1]

    def _create_default_callbacks(self) -> list[Any]:
        return [each for each in super()._create_default_callbacks() if not isinstance(each, self._unused)]


class _Fit(threading.Thread):
    """A thread for Ray Train's blocking call, which in the main thread would handle Ctrl-C without a checkpoint."""

    def __init__(
        self, job: TrainJob, build: Build, mailbox: Any, session: Session, engines: Sequence[Any] = ()
    ) -> None:
        super().__init__(name="ray-train", daemon=True)
        self.error: BaseException | None = None
        self.ended = threading.Event()
        """Wait for this instead of `join`, which after Ctrl-C regards the thread as ended (CPython 3.11)."""
        workers = job.spec.workers
        most = most_workers(workers, session)
        resources: dict[str, float] = {"CPU": workers.cpus_per_worker}
        if workers.gpus_per_worker:
            resources["GPU"] = 1.0 - _share_of_engine(job.spec)
        self._trainer = _Trainer(
            train_in_worker,
            session=session,
            train_loop_config={
                "job": job,
                "parents": dict(build.parents),
                "mailbox": mailbox,
                "engines": list(engines),
                "directory": build.job_directory,
            },
            scaling_config=ray.train.ScalingConfig(
                # Checkpoints load on any number of workers, so Ray may start fewer and add more later.
                num_workers=most if most == workers.fewest else (workers.fewest, most),
                use_gpu=bool(workers.gpus_per_worker),
                resources_per_worker=resources,
            ),
            # Ray Train would restore a run of the same name; ours resume from our own checkpoints.
            run_config=ray.train.RunConfig(
                name=f"{build.version}-{time.time_ns()}", storage_path=str(job.work / "ray")
            ),
        )

    def run(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for this thread
            self.error = error
        finally:
            self.ended.set()
