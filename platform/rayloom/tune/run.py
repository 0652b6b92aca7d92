"""The search on Ray Tune: it starts processes for trials, uses them again, carries results, and notices deaths.

Ray Tune is given a searcher, a scheduler and a callback that only pass on to `Search`, which decides and remembers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import Outcome
from rayloom.errors import QualityError, RayloomError, ResourceError
from rayloom.observe.progress import say
from rayloom.observe.ray_session import Session, connect
from rayloom.specs.tune import TuneSpec
from rayloom.train.publish import publish
from rayloom.tune.capacity import bundles_of, num_concurrent
from rayloom.tune.history import History, Journal
from rayloom.tune.live import LiveTable
from rayloom.tune.memory import memory_bytes_per_worker
from rayloom.tune.ranking import best, front
from rayloom.tune.results import earlier_trials, headline, summary, write_best, write_trials
from rayloom.tune.search import Search
from rayloom.tune.searchers import missing_package
from rayloom.tune.trial_files import TrialFiles

# Ray Tune reads these from the environment only. Its own snapshots are not used: the journal restores a search.
_SETTINGS = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


def run(spec: TuneSpec, build: Build) -> Outcome:
    """Searches, from the journal of a killed run where there is one, and publishes the best trial with all records."""
    if (missing := missing_package(spec)) is not None:
        raise ResourceError(f"{missing[0].upper()}{missing[1:]}")
    files = TrialFiles(spec, build.parents, build.work)
    files.prepare_rows()
    memory = memory_bytes_per_worker(spec, build.parents)
    concurrent = num_concurrent(spec, nodes_of(connect()), memory)
    warm = [artifact for path, artifact in build.parents.items() if path.startswith("searcher.warm_start.")]
    search = Search(
        spec,
        Journal(build.work / "journal.jsonl"),
        num_concurrent=concurrent,
        length_of=files.length,
        earlier=earlier_trials(spec, warm),
    )
    done = len(search.history.ended)
    state = f"{done} trials are done already; going on with the rest" if done else f"{concurrent} at once"
    say(f"{spec.name}: {spec.num_trials} trials, {state}")
    if not search.is_over:
        _drive(search, files, concurrent, bundles_of(spec, memory))
    search.cut_off()
    return _published(search, files, build)


def cluster_nodes() -> list[dict[str, float]]:
    """The nodes of the cluster at `RAY_ADDRESS`, for planning."""
    return nodes_of(connect())


def nodes_of(session: Session) -> list[dict[str, float]]:
    """What each living node has. An embedded cluster's logical CPUs are more than its cores, which are what counts."""
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            cpus = min(has.get("CPU", 0.0), session.num_cores) if session.is_embedded else has.get("CPU", 0.0)
            found.append({"CPU": cpus, "GPU": has.get("GPU", 0.0), "memory": has.get("memory", 0.0)})
    return found


# -- the result --------------------------------------------------------------------------------------------------------


def _published(search: Search, files: TrialFiles, build: Build) -> Outcome:
    """The best trial's files as the artifact's, with what happened in all trials beside them."""
    spec, history = search.spec, search.history
    winner = best(spec, history.trials.values())
    if winner is None:
        raise _no_result(history, build.work)
    job = files.job(winner.number, len(winner.copies), winner.values)
    if winner.outcome != "finished":
        workers = spec.train.workers
        remote = ray.remote(num_cpus=workers.cpus_per_worker, num_gpus=spec.gpus_per_trial)(_write_whole_result)
        ray.get(remote.remote(job, winner.step))
    outcome = publish(job, build)
    write_trials(build.directory, history)
    write_best(build.directory, spec, winner, build.parents)
    files.write_logs(build.directory / "trials", history.trials.values())
    metrics = summary(spec, history, winner) | {"training": outcome.metrics}
    return Outcome(outcome.content, metrics, headline=headline(spec, history, winner))


def _no_result(history: History, work: Path) -> QualityError:
    reasons = [f"trial {trial.number}: {trial.reason}" for trial in history.ended if trial.reason]
    said = "; ".join(reasons[:3]) or "no trial was started"
    fix = "Mend what they say in the job file, or remove that folder to try the same trials again."
    return QualityError(f"No trial came to an end that can be used: {said}", where=str(work), fix=fix)


# -- in the processes of trials ----------------------------------------------------------------------------------------


def _trial_in_process(config: dict[str, Any]) -> None:
    """What Ray Tune calls in a trial's process. The modules that it loads stay loaded for the next trial."""
    # A process is used again once the thread of the trial before has ended, which a full machine may delay.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "120"
    from rayloom.tune.trial import run_trial

    run_trial(config["task"], tune.report)


def _write_whole_result(job: Any, step: int) -> None:
    from rayloom.tune.trial import whole_result

    whole_result(job, step)


# -- between Ray Tune and the search -----------------------------------------------------------------------------------


def _drive(search: Search, files: TrialFiles, concurrent: int, bundles: list[dict[str, float]]) -> None:
    """Runs the search to its end or its budget's."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    files.ask_nobody_to_leave()
    with LiveTable(search.spec, search.history) as live:
        tuner = tune.Tuner(
            tune.with_resources(_trial_in_process, tune.PlacementGroupFactory(bundles)),
            tune_config=tune.TuneConfig(
                search_alg=ConcurrencyLimiter(_Suggestions(search, files, concurrent), max_concurrent=concurrent),
                scheduler=_Referee(search),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_name_of,
                trial_dirname_creator=_name_of,
            ),
            run_config=tune.RunConfig(
                name=f"session-{search.history.sessions}",
                storage_path=str(files.folder / "ray"),
                callbacks=[_Watcher(search, files, live)],
                failure_config=tune.FailureConfig(max_failures=0),
                verbose=0,
            ),
        )
        tuner.fit()
        live.show()


class _Suggestions(Searcher):  # type: ignore[misc]
    """Gives Ray Tune the next run when one more fits beside those in flight."""

    def __init__(self, search: Search, files: TrialFiles, num_concurrent: int) -> None:
        super().__init__(metric=None, mode=None)
        self._search, self._files, self._num_concurrent = search, files, num_concurrent
        self._in_flight: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._search.is_over and not self._in_flight:
            return str(Searcher.FINISHED)
        if len(self._in_flight) >= self._num_concurrent:
            return None
        run = self._search.next_run()
        if run is None:
            return None
        try:
            task = self._files.task(run)
        except RayloomError as error:
            # Values that change the rows can make them unusable: too long, or too few.
            self._search.failed(run.trial, str(error))
            return None
        self._in_flight.add(trial_id)
        return {"trial": run.trial, "segment": run.segment, "values": run.values, "task": task}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:  # noqa: ARG002
        self._in_flight.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see `Search.__getstate__`."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `Search.__getstate__`."""


class _Referee(FIFOScheduler):  # type: ignore[misc]
    """Tells the search what came of each run, and Ray Tune what the search decides."""

    def __init__(self, search: Search) -> None:
        super().__init__()
        self._search = search

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:  # noqa: ARG002
        number, message = trial.config["trial"], result["message"]
        metrics = {name.removeprefix("metrics/"): result[name] for name in result if name.startswith("metrics/")}
        if message == "measured":
            goes_on = self._search.measured(number, result["step"], metrics)
            return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)
        if message == "finished":
            self._search.finished(number, result["step"], metrics)
        elif message == "failed":
            self._search.failed(number, result["reason"])
        else:
            self._search.left(number)
        return str(TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: RayTrial) -> None:  # noqa: ARG002
        number = trial.config["trial"]
        if self._search.history.trials[number].is_running:
            self._search.crashed(number, _reason_of_death(Path(trial.error_file)))


class _Watcher(tune.Callback):  # type: ignore[misc]
    """After every turn of Ray Tune's loop: shows the table, and at the budget's end asks the trials to leave."""

    def __init__(self, search: Search, files: TrialFiles, live: LiveTable) -> None:
        self._search, self._files, self._live = search, files, live
        self._num_ended = -1

    def on_step_end(self, iteration: int, trials: list[RayTrial], **info: Any) -> None:  # noqa: ARG002
        self._live.show()
        if self._search.spent() is not None:
            self._files.ask_to_leave()
        history = self._search.history
        if len(history.ended) != self._num_ended:
            self._num_ended = len(history.ended)
            wanted = {trial.number for trial in front(self._search.spec, history.trials.values())}
            donors = {copy.donor for trial in history.trials.values() if not trial.outcome for copy in trial.copies}
            self._files.keep_only(wanted | donors, history.ended)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _name_of(trial: RayTrial) -> str:
    return f"trial-{trial.config['trial']:04d}-{trial.config['segment']}-{trial.trial_id[:5]}"


def _reason_of_death(error_file: Path) -> str:
    """The first sentence of Ray's account, without its advice."""
    text = error_file.read_text(errors="replace") if error_file.exists() else ""
    said = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Failure #")]
    detail = re.search(r"Worker exit detail: ([^.]+)", text)
    first = said[0].partition(". ")[0].rstrip(".:") if said else "its process ended"
    return f"{first}: {detail.group(1)}" if detail else first
