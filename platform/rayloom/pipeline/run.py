"""Runs the stages of a pipeline, each when those that it needs have finished; finished results are reused."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from rich.table import Table

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import RayloomError, unwrapped
from rayloom.observe.job_log import in_stage, note
from rayloom.observe.progress import console, say
from rayloom.observe.ray_session import connect
from rayloom.pipeline.graph import LoadJob, StageJob, load_stages
from rayloom.pipeline.processes import Processes, stage_command
from rayloom.pipeline.schedule import State, after_error, decide
from rayloom.specs.files.load import Job
from rayloom.specs.pipeline import PipelineSpec

RunJob = Callable[[Job, Store], tuple[Artifact, bool]]


class Runner(Protocol):
    """Runs stages, in this process or in others."""

    def start(self, item: StageJob) -> None: ...

    def ended(self) -> Iterator[tuple[str, RayloomError | None, State]]:
        """Waits until at least one stage is over; yields name, error or None, and state of each."""

    def stop(self) -> None: ...


def run_pipeline(spec: PipelineSpec, pipeline: Job, store: Store, load_job: LoadJob, run_job: RunJob) -> int:
    """Runs every stage that can run, prints how each ended, then raises the first error, if any; returns 0.

    Running the same command again continues with the stages that did not finish.
    """
    stages = load_stages(spec, pipeline, load_job)
    started = time.monotonic()
    states = {item.stage.name: State() for item in stages}
    runner = _BesideEachOther(store, run_job) if spec.max_parallel_stages > 1 else _OneByOne(store, run_job)
    error = run_stages(stages, states, runner, spec.max_parallel_stages)
    console().print(status_table(spec.name, stages, states))
    if error is not None:
        say("The same command continues with what is not finished.")
        raise error
    say(f"{len(stages)} stages in {time.monotonic() - started:.0f} s")
    for line in spec.next_steps:
        say(line)
    return 0


def run_stages(
    stages: Sequence[StageJob], states: dict[str, State], runner: Runner, max_parallel: int
) -> RayloomError | None:
    """Runs stages and updates `states` until no other can start; returns the first error, or None."""
    by_name = {item.stage.name: item for item in stages}
    first: RayloomError | None = None
    num_started = 0
    try:
        while True:
            decision = decide([item.stage for item in stages], states, max_parallel)
            for name, why in decision.skip.items():
                states[name] = State("skipped", why=why)
                note(f"stage {name}: skipped", of_stage=name, state="skipped", why=why)
            for name in decision.start:
                num_started += 1
                say(f"[{num_started}/{len(stages)}] {name}")
                states[name] = State("running")
                note(f"stage {name}: running", of_stage=name, state="running")
                runner.start(by_name[name])
            if not any(state.status == "running" for state in states.values()):
                return first
            for name, error, state in runner.ended():
                states[name] = state
                made = {"artifact": state.artifact.id} if state.artifact else {}
                note(f"stage {name}: {state.status}", of_stage=name, state=state.status, **made)
                first = first or error
                if error is not None:
                    say(f"stage {name}: {state.why}")
    except BaseException:
        running = [name for name, state in states.items() if state.status == "running"]
        done = [name for name, state in states.items() if state.status == "finished"]
        runner.stop()
        say(f"stage {', '.join(running)} was stopped; finished before it: {', '.join(done) or 'nothing'}")
        raise


def status_table(name: str, stages: Sequence[StageJob], states: Mapping[str, State]) -> Table:
    """How each stage ended, and why."""
    table = Table("stage", "artifact", "", "result", title=name, title_justify="left")
    for item in stages:
        state = states[item.stage.name]
        if state.artifact is None:
            table.add_row(item.stage.name, item.job.spec.name, _WORDS.get(state.status, state.status), state.why)
            continue
        manifest = state.artifact.manifest
        when = f"{manifest.seconds:.0f} s" if state.is_new else "reused"
        table.add_row(item.stage.name, manifest.id, when, manifest.headline)
    return table


_WORDS = {"refused": "not good enough"}


def _failed(name: str, error: Exception) -> tuple[str, RayloomError, State]:
    """Name, error and state of a stage that failed; prints the traceback of an unexpected error, for the log."""
    meant = unwrapped(error)
    if meant is not error:
        traceback.print_exception(error)
    return name, meant, after_error(meant)


class _OneByOne:
    """Runs stages in this process, one after the other."""

    def __init__(self, store: Store, run_job: RunJob) -> None:
        self._store, self._run_job = store, run_job
        self._waiting: list[StageJob] = []

    def start(self, item: StageJob) -> None:
        self._waiting.append(item)

    def ended(self) -> Iterator[tuple[str, RayloomError | None, State]]:
        item = self._waiting.pop(0)
        try:
            with in_stage(item.stage.name):
                artifact, is_new = self._run_job(item.job, self._store)
        except Exception as error:  # noqa: BLE001 (other stages go on, as they do if a stage's process fails)
            yield _failed(item.stage.name, error)
        else:
            yield item.stage.name, None, State("finished", artifact, is_new)

    def stop(self) -> None:
        """Does nothing: the only running stage is the one that was interrupted."""


class _BesideEachOther:
    """Runs stages in parallel processes, on the cluster of this process."""

    def __init__(self, store: Store, run_job: RunJob) -> None:
        self._store, self._run_job = store, run_job
        self._items: dict[str, tuple[StageJob, str]] = {}
        # If this command started the cluster, the processes inherit its token from the environment.
        self._processes = Processes({"RAY_ADDRESS": connect().address, "RAYLOOM_STORE": store.uri})

    def start(self, item: StageJob) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")  # the format of manifests
        self._items[item.stage.name] = (item, now)
        self._processes.start(item.stage.name, stage_command(item.stage.name, item.job.file, item.stage.set))

    def ended(self) -> Iterator[tuple[str, RayloomError | None, State]]:
        for name, error in self._processes.ended():
            if error is not None:
                yield name, error, after_error(error)
                continue
            item, started_at = self._items[name]
            try:
                artifact, _ = self._run_job(item.job, self._store)  # reuses the artifact that the process made
            except Exception as lost:  # noqa: BLE001 (as above)
                yield _failed(name, lost)
            else:
                yield name, None, State("finished", artifact, artifact.manifest.created_at >= started_at)

    def stop(self) -> None:
        self._processes.stop()
