"""Runs a `kind: tune` job: prepares the search, runs its trials on Ray, and publishes the best one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.errors import QualityError, ResourceError
from rayloom.observe.mlflow_experiment import missing_mlflow
from rayloom.observe.progress import say
from rayloom.observe.ray_session import Session, connect, is_on_cluster
from rayloom.specs.search.space import Values
from rayloom.specs.tune import TuneSpec
from rayloom.train.publish import publish
from rayloom.tune.reporting.live import LiveTable
from rayloom.tune.reporting.mlflow_runs import MlflowRuns
from rayloom.tune.results import earlier_trials, headline, summary, write_best, write_trials
from rayloom.tune.search import Search
from rayloom.tune.strategies.history import JOURNAL_NAME, History, Journal, Trial
from rayloom.tune.strategies.ranking import best, best_by_model
from rayloom.tune.strategies.searchers import missing_package
from rayloom.tune.trials.capacity import bundles_of, memory_bytes_per_worker, num_concurrent
from rayloom.tune.trials.prompt_trials import PromptTrials
from rayloom.tune.trials.ray_trials import run_trials
from rayloom.tune.trials.speed_trials import (
    STEP,
    MeasuredTrials,
    ServedTrials,
    TimedTrials,
    parents_of_trial,
    run_one_by_one,
)
from rayloom.tune.trials.trial_files import TrialFiles


def run(spec: TuneSpec, build: Build) -> Outcome:
    """Searches, from the journal of a killed run if there is one, and publishes the best trial and all records."""
    if (missing := missing_package(spec) or missing_mlflow(spec.mlflow)) is not None:
        raise ResourceError(f"{missing[0].upper()}{missing[1:]}")
    copy = WorkCopy(build.store, spec.name, build.version)
    copy.fetch(JOURNAL_NAME)
    if spec.is_measured_once:
        return _measured(spec, build, copy)
    files = TrialFiles(spec, build.parents, build.work, copy if copy.is_needed else None, build.store)
    files.prepare_rows()
    memory = memory_bytes_per_worker(spec, build.parents)
    concurrent = num_concurrent(spec, nodes_of(connect()), memory)
    search = _search(spec, build, concurrent, files.length)
    records = None
    if spec.mlflow is not None:
        records = MlflowRuns(spec.mlflow, spec, build.version, search.history, build.job_directory)
    if not search.is_over:
        _train_all(search, files, concurrent, bundles_of(spec, memory), records, build.job_directory)
    _end(search, build.work)
    if records is not None:
        records.finish(best(spec, search.history.trials.values()))
    return _published(search, files, build)


def _measured(spec: TuneSpec, build: Build, copy: WorkCopy) -> Outcome:
    """The search for speed, or over prompts: measures one trial after another, and keeps a served model's best engine
    for `auto`."""
    search = _search(spec, build, 1, lambda _: STEP)
    of_nodes, trials = copy if copy.is_needed else None, search.history.trials
    measuring: MeasuredTrials
    if spec.evaluate is not None:
        measuring = _asking(spec, build)
    else:
        measuring = ServedTrials(spec, build) if spec.serve is not None else TimedTrials(spec, build, of_nodes, trials)
        if not search.is_over:
            connect()  # a cluster that does not start is no trial's failure
    with LiveTable(spec, search.history) as live:

        def follow() -> None:
            copy.put(JOURNAL_NAME)
            live.show()

        run_one_by_one(search, measuring, follow)
    _end(search, build.work)
    winner = _winner(search.history, spec, build.work)
    write_trials(build.directory, search.history)
    write_best(build.directory, spec, winner, parents_of_trial(spec, build.parents, winner.values))
    if isinstance(measuring, ServedTrials):
        for found in best_by_model(spec, trials.values()):
            measuring.keep(found)
    return Outcome("report", summary(spec, search.history, winner), headline=headline(spec, search.history, winner))


def _asking(spec: TuneSpec, build: Build) -> MeasuredTrials:
    """Trials of prompts: in this process, or on a cluster in one with the CPUs and GPUs of the job."""
    if not is_on_cluster():
        return PromptTrials(spec, build.parents, build.store)
    connect()
    return _ElsewhereAsked(spec, build)


class _ElsewhereAsked(MeasuredTrials):
    """Trials in a process of the cluster, which keeps the model from one to the next."""

    def __init__(self, spec: TuneSpec, build: Build) -> None:
        (bundle,) = spec.bundles()[:1]
        asking = ray.remote(num_cpus=bundle.cpus, num_gpus=bundle.gpus)(PromptTrials)
        self._asking = asking.remote(spec, build.parents, build.store)

    def measure(self, number: int, values: Values) -> dict[str, float]:
        metrics: dict[str, float] = ray.get(self._asking.measure.remote(number, values))
        return metrics


def _search(spec: TuneSpec, build: Build, concurrent: int, length_of: Callable[[Values], int]) -> Search:
    warm = [artifact for path, artifact in build.parents.items() if path.startswith("searcher.warm_start.")]
    journal, earlier = Journal(build.work / JOURNAL_NAME), earlier_trials(spec, warm)
    search = Search(spec, journal, num_concurrent=concurrent, length_of=length_of, earlier=earlier)
    done = len(search.history.ended)
    state = f"{done} trials are done already; going on with the rest" if done else f"{concurrent} at once"
    say(f"{spec.name}: {spec.num_trials} trials, {state}")
    return search


def _end(search: Search, work: Path) -> None:
    """Ends what the budget cut off. Raises ResourceError if something outside the trials stopped the search."""
    if search.hindrance is not None:
        raise _hindered(search, work)
    search.cut_off()


def _train_all(
    search: Search,
    files: TrialFiles,
    concurrent: int,
    bundles: list[dict[str, float]],
    records: MlflowRuns | None,
    job_directory: Path,
) -> None:
    """Runs the search until it ends or its budget is used up, and shows its progress."""
    with LiveTable(search.spec, search.history) as live:

        def follow() -> None:
            live.show()
            if records is not None:
                records.record()

        run_trials(search, files, concurrent, bundles, follow, job_directory)
        live.show()


def cluster_nodes() -> list[dict[str, float]]:
    """The resources of each node of the cluster at `RAY_ADDRESS`, for planning."""
    return nodes_of(connect())


def nodes_of(session: Session) -> list[dict[str, float]]:
    """The resources of each live node. For an embedded cluster, which has more logical CPUs than cores, its cores."""
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            cpus = min(has.get("CPU", 0.0), session.num_cores) if session.is_embedded else has.get("CPU", 0.0)
            found.append({"CPU": cpus, "GPU": has.get("GPU", 0.0), "memory": has.get("memory", 0.0)})
    return found


# -- the result --------------------------------------------------------------------------------------------------------


def _published(search: Search, files: TrialFiles, build: Build) -> Outcome:
    """Writes the artifact: the best trial's files, and the records of all trials."""
    spec, history = search.spec, search.history
    winner = _winner(history, spec, build.work)
    segment = len(winner.copies)
    job = files.job(winner.number, segment, winner.values)
    if winner.outcome != "finished":
        workers = spec.train.workers
        remote = ray.remote(num_cpus=workers.cpus_per_worker, num_gpus=spec.gpus_per_trial / workers.num_workers)(
            _write_whole_result
        )
        ray.get(remote.remote(job, files.training_parents, winner.step, build.job_directory))
    if job.copy is not None:
        for name in (job.finished.name, job.log.name):
            job.copy.replace(name)
    outcome = publish(job, build)
    write_trials(build.directory, history)
    write_best(build.directory, spec, winner, files.training_parents)
    files.write_logs(build.directory / "trials", history.trials.values())
    files.write_ray_records(build.directory / "ray")
    metrics = summary(spec, history, winner) | {"training": outcome.metrics}
    return replace(outcome, metrics=metrics, headline=headline(spec, history, winner))


def _winner(history: History, spec: TuneSpec, work: Path) -> Trial:
    winner = best(spec, history.trials.values())
    if winner is None:
        raise _no_result(history, work)
    return winner


def _hindered(search: Search, work: Path) -> ResourceError:
    what = f"The search ended early, because a trial failed for a reason outside its values: {search.hindrance}"
    kept = len(search.history.ended)
    fix = f"Mend that and run the same command again: the {kept} trials that ended are kept, and the others go on."
    return ResourceError(what, where=str(work), fix=fix)


def _no_result(history: History, work: Path) -> QualityError:
    reasons = [f"trial {trial.number}: {trial.reason}" for trial in history.ended if trial.reason]
    said = "; ".join(reasons[:3]) or "no trial was started"
    fix = "Mend what they say in the job file, or remove that folder to try the same trials again."
    return QualityError(f"No trial came to an end that can be used: {said}", where=str(work), fix=fix)


def _write_whole_result(job: Any, parents: Mapping[str, Any], step: int, job_directory: Path) -> None:
    from rayloom.tune.trials.trial import whole_result
    from rayloom.tune.trials.trial_workers import asking_of

    whole_result(job, parents, step, asking_of(job.spec, parents, job_directory))
