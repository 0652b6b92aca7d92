"""Runs the trials of a search with Ray Tune, which starts and reuses processes, transports results and detects deaths.

The searcher, scheduler and callback given to Ray Tune only delegate to `Search`, which makes all decisions.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayloom.engine_errors import ray_account
from rayloom.errors import RayloomError, ResourceError
from rayloom.tune.search import Search
from rayloom.tune.strategies.history import JOURNAL_NAME
from rayloom.tune.strategies.ranking import front
from rayloom.tune.trials.trial_files import TrialFiles

# Settings that Ray Tune reads from the environment only.
_SETTINGS = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # How often its records are written to the work folder. Its snapshots are not used, as the journal replaces them.
    "TUNE_GLOBAL_CHECKPOINT_S": "60",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}

JOURNAL_SECONDS = 5.0
"""Time between two copies of the journal to the store; a search whose node is lost asks for so much again."""


def run_trials(
    search: Search,
    files: TrialFiles,
    concurrent: int,
    bundles: list[dict[str, float]],
    on_turn: Callable[[], None],
    job_directory: Path,
) -> None:
    """Runs the search until it ends or its budget is used up. `on_turn`: called after every turn of Ray Tune's loop.

    job_directory: where functions of rewards are.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    # On this process' node: if that is lost, so is the search's own process.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    pause = ray.remote(num_cpus=0, scheduling_strategy=here)(PauseSwitch).remote()
    tuner = tune.Tuner(
        # Ray Tune records a trial's configuration, and a machine's path is none of a trial's values.
        tune.with_resources(
            tune.with_parameters(_trial_in_process, job_directory=job_directory), tune.PlacementGroupFactory(bundles)
        ),
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(
                _SearchSuggestions(search, files, concurrent, PauseSignal(pause)), max_concurrent=concurrent
            ),
            scheduler=_SearchScheduler(search),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=_name_of,
            trial_dirname_creator=_name_of,
        ),
        run_config=tune.RunConfig(
            name=f"session-{search.history.sessions}",
            storage_path=str(files.ray),
            callbacks=[_ProgressCallback(search, files, on_turn, pause)],
            failure_config=tune.FailureConfig(max_failures=0),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        files.save(JOURNAL_NAME)
        ray.kill(pause)


class PauseSwitch:
    """An actor that says whether every running trial should save and pause."""

    def __init__(self) -> None:
        self._is_on = False

    def turn_on(self) -> None:
        self._is_on = True

    def is_on(self) -> bool:
        return self._is_on


class PauseSignal:
    """A trial's view of the switch. It never blocks: it gives the newest answer that has arrived."""

    def __init__(self, switch: Any) -> None:
        self._switch = switch
        self._answer: ray.ObjectRef | None = None
        self._is_on = False

    def __call__(self) -> bool:
        if self._answer is None:
            self._answer = self._switch.is_on.remote()
        elif ray.wait([self._answer], timeout=0)[0]:
            self._is_on |= ray.get(self._answer)
            self._answer = None
        return self._is_on

    def __reduce__(self) -> tuple[type[PauseSignal], tuple[Any]]:
        return PauseSignal, (self._switch,)


def _trial_in_process(config: dict[str, Any], job_directory: Path) -> None:
    """The function that Ray Tune calls in a trial's process. Imported modules stay loaded for the next trial."""
    # A process is reused after the previous trial's thread has ended, which can take a while on a busy machine.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "120"
    from rayloom.tune.trials.trial import run_trial
    from rayloom.tune.trials.trial_workers import asking_of, trial_workers_of

    task = config["task"]
    workers = task.job.spec.workers
    others = trial_workers_of(workers) if workers.num_workers > 1 else None
    run_trial(task, tune.report, others, asking_of(task.job.spec, task.parents, job_directory))


class _SearchSuggestions(Searcher):  # type: ignore[misc]
    """Gives Ray Tune the next run of the search, if there is one."""

    def __init__(self, search: Search, files: TrialFiles, num_concurrent: int, pause: PauseSignal) -> None:
        super().__init__(metric=None, mode=None)
        self._pause = pause
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
            task = self._files.task(run, self._pause)
        except (OSError, ResourceError) as error:
            self._search.hindered(run.trial, str(error))
            return None
        except RayloomError as error:
            # Values that change the rows can make them unusable, such as too long or too few.
            self._search.failed(run.trial, str(error))
            return None
        self._in_flight.add(trial_id)
        return {"trial": run.trial, "segment": run.segment, "values": run.values, "task": task}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:  # noqa: ARG002
        self._in_flight.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: see `Search.__getstate__`."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `Search.__getstate__`."""


class _SearchScheduler(FIFOScheduler):  # type: ignore[misc]
    """Tells the search the result of each run, and Ray Tune the search's decision."""

    def __init__(self, search: Search) -> None:
        super().__init__()
        self._search = search

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:  # noqa: ARG002
        number, message = trial.config["trial"], result["message"]
        metrics = {name.removeprefix("metrics/"): result[name] for name in result if name.startswith("metrics/")}
        if message == "measured":
            goes_on = self._search.measured(number, result["step"], metrics)
            return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)
        if message == "copied":
            self._search.copied(number)
        elif message == "finished":
            self._search.finished(number, result["step"], metrics)
        elif message == "failed":
            self._search.failed(number, result["reason"])
        elif message == "hindered":
            self._search.hindered(number, result["reason"])
        elif message == "crashed":
            self._search.crashed(number, result["reason"])
        else:
            self._search.paused(number)
        return str(TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: RayTrial) -> None:  # noqa: ARG002
        number = trial.config["trial"]
        if self._search.history.trials[number].is_running:
            self._search.crashed(number, _reason_of_death(trial.error_file))


class _ProgressCallback(tune.Callback):  # type: ignore[misc]
    """After every turn of Ray Tune's loop, calls `on_turn`; if the budget is used up, asks the trials to pause."""

    def __init__(self, search: Search, files: TrialFiles, on_turn: Callable[[], None], pause: Any) -> None:
        self._search, self._files, self._on_turn, self._pause = search, files, on_turn, pause
        self._num_ended = -1
        self._saved_at, self._num_saved = time.monotonic(), 0

    def on_step_end(self, iteration: int, trials: list[RayTrial], **info: Any) -> None:  # noqa: ARG002
        self._on_turn()
        if self._search.must_end:
            self._pause.turn_on.remote()
        num_events = self._search.num_events
        if num_events != self._num_saved and time.monotonic() - self._saved_at > JOURNAL_SECONDS:
            self._saved_at, self._num_saved = time.monotonic(), num_events
            self._files.save(JOURNAL_NAME)
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


def _reason_of_death(error_file: str | None) -> str:
    has_file = error_file is not None and Path(error_file).exists()
    return ray_account(Path(str(error_file)).read_text(errors="replace") if has_file else "")
