"""A pipeline's decisions: what starts beside what, what a failed stage stops, and what the closing table says."""

from __future__ import annotations

import io
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from rich.console import Console
from support.artifacts import note, write_note

from rayloom import errors
from rayloom.artifacts.build import build
from rayloom.artifacts.store import Artifact, Store
from rayloom.cli import main
from rayloom.pipeline.graph import StageJob
from rayloom.pipeline.processes import Processes, error_of, stage_command
from rayloom.pipeline.run import run_pipeline, run_stages, status_table
from rayloom.pipeline.schedule import State, after_error, decide
from rayloom.specs.files.load import Job
from rayloom.specs.pipeline import PipelineSpec, Stage

#   a ── b ── d
#   └─── c ── e        f
NEEDS = {"a": (), "b": ("a",), "c": ("a",), "d": ("b",), "e": ("c",), "f": ()}
STAGES = [Stage(name=name, job=f"{name}.yaml", needs=needs) for name, needs in NEEDS.items()]
DONE = State("finished")


def states(**known: State) -> dict[str, State]:
    return {stage.name: known.get(stage.name, State()) for stage in STAGES}


def items() -> list[StageJob]:
    return [StageJob(stage, Job(note(name=stage.name).spec, Path(stage.job))) for stage in STAGES]


@pytest.mark.parametrize(
    ("max_parallel", "known", "started"),
    [
        (1, {}, ["a"]),
        (3, {}, ["a", "f"]),
        (3, {"a": State("running")}, ["f"]),
        (2, {"a": DONE}, ["b", "c"]),
        (2, {"a": DONE, "f": State("running")}, ["b"]),
        (1, {"a": DONE, "f": State("running")}, []),
    ],
)
def test_what_needs_nothing_unfinished_starts_while_there_is_room(
    max_parallel: int, known: dict[str, State], started: list[str]
) -> None:
    assert decide(STAGES, states(**known), max_parallel).start == started


def test_a_result_that_is_not_good_enough_stops_what_needs_it_and_nothing_else() -> None:
    decision = decide(STAGES, states(a=DONE, b=after_error(errors.QualityError("3 of 4 limits are broken"))), 4)
    assert decision.start == ["c", "f"]
    assert decision.skip == {"d": "needs b, which is not good enough"}


def test_any_other_failure_stops_what_needs_it_and_nothing_else() -> None:
    decision = decide(STAGES, states(a=DONE, b=after_error(errors.ResourceError("The disk is full"))), 4)
    assert decision.start == ["c", "f"]
    assert decision.skip == {"d": "needs b, which failed"}


def test_an_interruption_lets_nothing_new_start() -> None:
    stopped = after_error(errors.InterruptedJobError("Stopped"))
    decision = decide(STAGES, states(a=DONE, b=stopped, c=State("running")), 4)
    assert decision.start == []
    assert decision.skip == {
        "d": "needs b, which was stopped",
        "e": "not started after b was stopped",
        "f": "not started after b was stopped",
    }


def test_what_needs_a_skipped_stage_is_skipped() -> None:
    chain = [Stage(name="x", job="x"), Stage(name="y", job="y", needs=("x",)), Stage(name="z", job="z", needs=("y",))]
    known = {"x": after_error(errors.QualityError("bad")), "y": State(), "z": State()}
    assert decide(chain, known, 1).skip == {"y": "needs x, which is not good enough", "z": "needs y, which was skipped"}


class Told:
    """A runner that ends stages as it was told to, the one started last first."""

    def __init__(self, artifact: Artifact, errors: dict[str, BaseException]) -> None:
        self.artifact, self.errors = artifact, errors
        self.running: list[str] = []
        self.most = 0
        self.started: list[str] = []
        self.is_stopped = False

    def start(self, item: StageJob) -> None:
        self.running.append(item.stage.name)
        self.started.append(item.stage.name)
        self.most = max(self.most, len(self.running))

    def ended(self) -> Iterator[tuple[str, errors.RayloomError | None, State]]:
        name = self.running.pop()
        error = self.errors.get(name)
        if error is not None and not isinstance(error, errors.RayloomError):
            raise error
        yield name, error, after_error(error) if error else State("finished", self.artifact, True)

    def stop(self) -> None:
        self.is_stopped = True


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return build(note(), Store(str(tmp_path_factory.mktemp("store"))), write_note)[0]


@pytest.mark.parametrize(("max_parallel", "most"), [(1, 1), (2, 2), (9, 2)])
def test_every_stage_runs_once_after_its_needs(artifact: Artifact, max_parallel: int, most: int) -> None:
    runner, found = Told(artifact, {}), states()
    assert run_stages(items(), found, runner, max_parallel) is None
    assert sorted(runner.started) == sorted(NEEDS)
    assert all(runner.started.index(need) < runner.started.index(name) for name in NEEDS for need in NEEDS[name])
    assert {state.status for state in found.values()} == {"finished"}
    assert runner.most == most


def test_the_table_says_of_each_stage_how_it_ended_and_why(artifact: Artifact) -> None:
    gate = errors.QualityError("2 of 3 limits of judge are broken", where="predictions.jsonl", fix="Train further.")
    found = states()
    assert run_stages(items(), found, Told(artifact, {"b": gate}), 1) is gate
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(status_table("chain", items(), found))
    rows = {line.split("│")[1].strip(): line for line in console.export_text().splitlines() if line.count("│") == 5}
    assert "written" in rows["a"]
    assert "not good enough" in rows["b"]
    assert "2 of 3 limits of judge are broken" in rows["b"]
    assert "skipped" in rows["d"]
    assert "needs b, which is not good enough" in rows["d"]
    assert "written" in rows["e"]


def test_what_was_interrupted_stops_the_others_too(artifact: Artifact) -> None:
    runner = Told(artifact, {"f": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        run_stages(items(), states(), runner, 2)
    assert runner.is_stopped


def test_a_stages_process_ends_with_the_error_that_it_told() -> None:
    said = ["loading", "error: There is no artifact m (/store). Run its job.", "Everything that the engines said: x"]
    error = error_of(errors.InputError.exit_code, said, "train")
    assert isinstance(error, errors.InputError)
    assert str(error) == "There is no artifact m (/store). Run its job."
    assert error.__notes__ == ["Everything that the engines said: x"]
    assert "its process ended with -9" in str(error_of(-9, [], "train"))
    assert isinstance(
        error_of(70, ["error: KeyError: 'weights' (run.py:7). This is a defect"], "train"), errors.DefectError
    )
    command = stage_command("first", Path("a.yaml"), ("x=1",))
    assert command[2:] == ["rayloom", "run", "a.yaml", "--as-stage", "first", "--set", "x=1"]


def test_processes_are_beside_each_other_and_stop_when_asked(tmp_path: Path) -> None:
    """The second can only end when it sees what the first wrote while it ran."""
    write = f"import pathlib, time; pathlib.Path({str(tmp_path / 'met')!r}).touch(); time.sleep(600)"
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(tmp_path / 'met')!r}).exists(): time.sleep(0.01)"
    processes = Processes({})
    processes.start("long", [sys.executable, "-c", write])
    processes.start("short", [sys.executable, "-c", wait + "\nprint('error: Full.'); raise SystemExit(4)"])
    ((name, error),) = processes.ended()
    assert (name, str(error)) == ("short", "Full.")
    assert isinstance(error, errors.ResourceError)
    began = time.monotonic()
    processes.stop()
    ((name, error),) = processes.ended()
    assert name == "long"
    assert f"ended with {-signal.SIGTERM}" in str(error)
    assert time.monotonic() - began < 300


@pytest.mark.parametrize(
    "error", [KeyError("weights"), errors.ResourceError("Too little memory"), OSError(28, "No space")]
)
def test_one_by_one_goes_on_with_independent_stages_after_any_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], error: Exception
) -> None:
    spec = PipelineSpec(kind="pipeline", name="chain", stages=tuple(STAGES))
    store = Store(str(tmp_path / "store"))

    def load_job(file: Path, overrides: Sequence[str]) -> Job:
        return Job(note(name=file.stem).spec, file)

    def run_job(job: Job, store: Store) -> tuple[Artifact, bool]:
        if job.spec.name == "b":
            raise error
        return build(note(name=job.spec.name), store, write_note)

    with pytest.raises(type(errors.unwrapped(error))) as raised:
        run_pipeline(spec, Job(spec, tmp_path / "chain.yaml"), store, load_job, run_job)
    assert raised.value is error or raised.value.__cause__ is error
    assert store.names() == ["a", "c", "e", "f"]
    shown = capfd.readouterr().err
    assert "needs b, which failed" in shown
    assert "The same command continues" in shown


def test_one_by_one_makes_what_is_missing_and_goes_on_where_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Imports of small folders, which need no cluster."""
    monkeypatch.setenv("RAYLOOM_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        source = f"source: {{type: folder, path: ./{name}}}\ncontent: {{type: dataset}}\nlicence: MIT\n"
        (tmp_path / f"{name}.yaml").write_text(f"kind: import\nname: {name}\n{source}")
    stages = "stages:\n  - {name: first, job: one.yaml}\n  - {name: second, job: two.yaml, needs: [first]}\n"
    (tmp_path / "chain.yaml").write_text(f"kind: pipeline\nname: chain\n{stages}")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.jsonl").write_text('{"text": "one"}\n')
    assert main(["run", "chain.yaml"]) == 3
    said = capfd.readouterr().err
    assert "failed" in said
    assert "The same command continues" in said
    assert Store(str(tmp_path / "store")).versions("two") == []
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "a.jsonl").write_text('{"text": "two"}\n')
    assert main(["run", "chain.yaml"]) == 0
    said = capfd.readouterr().err
    assert "reused" in said
    assert "2 stages in " in said
    logs = sorted((tmp_path / "store" / ".logs").glob("*.jsonl"))
    lines = [json.loads(line) for file in logs for line in file.read_text().splitlines()]
    assert {line["job"] for line in lines} == {"chain"}
    (wrong,) = [line for line in lines if line["level"] == "error"]
    assert "two" in wrong["text"]
