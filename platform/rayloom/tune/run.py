"""The search on Ray Tune: it starts processes for trials, uses them again, carries results, and notices deaths.

Ray Tune is given a searcher, a scheduler and a callback that only pass on to `Search`, which decides and remembers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from rayloom.observe.ray_session import Session
from rayloom.tune.capacity import Amounts
from rayloom.tune.search import Run, Search

MakeTask = Callable[[Run], Any]
"""What a process needs to know to do a run: a `TrialTask`."""

# Ray Tune reads these from the environment only. Its own snapshots are not used: the journal restores a search.
_SETTINGS = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def drive(
    search: Search,
    make_task: MakeTask,
    bundles: Sequence[Amounts],
    num_concurrent: int,
    folder: Path,
    watch: Callable[[], None],
) -> None:
    """Runs the search to its end or its budget's. `folder`: for Ray's own records, seen by every node.

    `watch` is called several times a second, between events.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    trainable = tune.with_resources(_trial_in_process, tune.PlacementGroupFactory([dict(b) for b in bundles]))
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(
                _Suggestions(search, make_task, num_concurrent), max_concurrent=num_concurrent
            ),
            scheduler=_Referee(search),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=_name_of,
            trial_dirname_creator=_name_of,
        ),
        run_config=tune.RunConfig(
            name=f"session-{search.history.sessions}",
            storage_path=str(folder),
            callbacks=[_Watcher(watch)],
            failure_config=tune.FailureConfig(max_failures=0),
            verbose=0,
        ),
    )
    tuner.fit()


def nodes_of(session: Session) -> list[dict[str, float]]:
    """What each living node has. An embedded cluster's logical CPUs are more than its cores, which are what counts."""
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            cpus = min(has.get("CPU", 0.0), session.num_cores) if session.is_embedded else has.get("CPU", 0.0)
            found.append({"CPU": cpus, "GPU": has.get("GPU", 0.0), "memory": has.get("memory", 0.0)})
    return found


def _trial_in_process(config: dict[str, Any]) -> None:
    """What Ray Tune calls in a trial's process. The modules that it loads stay loaded for the next trial."""
    # A process is used again once the thread of the trial before has ended, which a full machine may delay.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "120"
    from rayloom.tune.trial import run_trial

    run_trial(config["task"], tune.report)


class _Suggestions(Searcher):  # type: ignore[misc]
    """Gives Ray Tune the next run when one more fits beside those in flight."""

    def __init__(self, search: Search, make_task: MakeTask, num_concurrent: int) -> None:
        super().__init__(metric=None, mode=None)
        self._search, self._make_task, self._num_concurrent = search, make_task, num_concurrent
        self._in_flight: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._search.is_over and not self._in_flight:
            return str(Searcher.FINISHED)
        if len(self._in_flight) >= self._num_concurrent:
            return None
        run = self._search.next_run()
        if run is None:
            return None
        self._in_flight.add(trial_id)
        return {"trial": run.trial, "segment": run.segment, "values": run.values, "task": self._make_task(run)}

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
        if message == "measured":
            goes_on = self._search.measured(number, result["step"], _metrics(result))
            return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)
        if message == "finished":
            self._search.finished(number, result["step"], _metrics(result))
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
    """Calls `watch` after every turn of Ray Tune's loop."""

    def __init__(self, watch: Callable[[], None]) -> None:
        self._watch = watch

    def on_step_end(self, iteration: int, trials: list[RayTrial], **info: Any) -> None:  # noqa: ARG002
        self._watch()

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    from rayloom.specs.tune import METRICS

    return {name: float(result[name]) for name in METRICS if name in result}


def _name_of(trial: RayTrial) -> str:
    return f"trial-{trial.config['trial']:04d}-{trial.config['segment']}-{trial.trial_id[:5]}"


def _reason_of_death(error_file: Path) -> str:
    """The first sentence of Ray's account, without its advice."""
    text = error_file.read_text(errors="replace") if error_file.exists() else ""
    said = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Failure #")]
    detail = re.search(r"Worker exit detail: ([^.]+)", text)
    first = said[0].partition(". ")[0].rstrip(".:") if said else "its process ended"
    return f"{first}: {detail.group(1)}" if detail else first
