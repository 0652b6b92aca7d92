"""What a person is told when a job fails: one sentence, an exit code, and a log with the rest."""

from __future__ import annotations

import dataclasses
import importlib
import pickle
import re
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError
from ray.train import ControllerError, WorkerGroupError

from rayloom.artifacts.store import Store
from rayloom.cli import main, message_for
from rayloom.errors import (
    DefectError,
    InputError,
    InterruptedJobError,
    QualityError,
    RayloomError,
    ResourceError,
    SpecError,
    unwrapped,
)
from rayloom.kinds import KINDS

JOB = """
kind: import
name: pages
source: {type: folder, path: .}
content: {type: dataset}
licence: MIT
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYLOOM_STORE", str(tmp_path / "store"))
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Runs the job with a stage of `support.stages`; exit code, what the terminal showed, and the log."""

    def runs(stage: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setitem(KINDS, "import", dataclasses.replace(KINDS["import"], stage=f"support.stages:{stage}"))
        capfd.readouterr()
        code = main(["run", "job.yaml", *arguments])
        said = capfd.readouterr()
        logs = list((folder / "store" / ".logs").glob("*-import-pages.log"))
        return code, said.out + said.err, "".join(log.read_text() for log in logs)

    return runs


def test_engines_speak_into_the_log_and_only_rayloom_to_the_person(run) -> None:  # type: ignore[no-untyped-def]
    code, terminal, log = run("noisy")
    assert code == 0
    assert "for the person" in terminal
    assert "made: " in terminal
    for chatter in ("printed", "written below Python", "said by a child"):
        assert chatter in log
        assert chatter not in terminal


def test_with_debug_everything_comes_to_the_terminal(run) -> None:  # type: ignore[no-untyped-def]
    code, terminal, log = run("noisy", "--debug")
    assert (code, log) == (0, "")
    for chatter in ("printed", "written below Python", "said by a child", "for the person"):
        assert chatter in terminal


def test_a_defect_is_one_sentence_with_its_place_and_log(run) -> None:  # type: ignore[no-untyped-def]
    code, terminal, log = run("defect")
    assert code == 70
    message = terminal[terminal.index("error: ") :]
    assert re.match(r"error: KeyError: 'weights' \(rayloom/artifacts/build.py:\d+\)\. This is a defect", message)
    assert "--debug" in message
    assert re.search(r"Everything that the engines said: .*-import-pages\.log", message)
    assert "Traceback" not in terminal
    assert "KeyError: 'weights'" in log
    assert "Traceback" in log


def test_with_debug_a_defect_shows_its_traceback(run) -> None:  # type: ignore[no-untyped-def]
    code, terminal, _ = run("defect", "--debug")
    assert code == 70
    assert "Traceback" in terminal


@pytest.mark.parametrize(
    ("stage", "code", "message"),
    [
        ("not_good_enough", 5, "error: Perplexity 90 is over the limit of 80 (pages). Train longer."),
        ("wrapped", 5, "error: Perplexity 90 is over the limit of 80 (pages). Train longer."),
        ("disk_full", 4, "error: The disk is full; nothing was published (/big/file). Free space"),
        ("out_of_memory", 4, "error: This machine ran out of memory"),
        ("stopped", 130, "stopped; the same command continues where it can"),
    ],
)
def test_what_a_person_can_act_on_is_said_without_a_traceback(run, stage: str, code: int, message: str) -> None:  # type: ignore[no-untyped-def]
    found, terminal, _ = run(stage)
    assert found == code
    assert message in terminal
    assert "Traceback" not in terminal


def _task_error(cause: Exception) -> Exception:
    """As Ray raises it from `ray.get`: an instance of both classes, which prints the worker's traceback."""
    error: Exception = RayTaskError("train", "Traceback in the worker", cause, "title", 1, "127.0.0.1")
    return error.as_instanceof_cause()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    "wrap",
    [
        _task_error,
        lambda cause: WorkerGroupError("failed", {0: cause}),
        lambda cause: WorkerGroupError("failed", {1: _task_error(cause)}),
        lambda cause: ControllerError(_task_error(cause)),
        lambda cause: ControllerError(WorkerGroupError("failed", {0: cause})),
    ],
    ids=["task", "worker group", "task in a worker group", "task in the controller", "worker group in the controller"],
)
def test_the_error_inside_what_ray_wraps_is_the_one_that_is_message_for(wrap) -> None:  # type: ignore[no-untyped-def]
    cause = InputError("The corpus is empty", where="corpus@0123", fix="Loosen the rules.")
    assert message_for(wrap(cause)) == ("error: The corpus is empty (corpus@0123). Loosen the rules.", 3)


def test_an_unknown_failure_of_a_worker_is_a_defect_with_its_own_name() -> None:
    message, code = message_for(_task_error(ZeroDivisionError("division by zero")))
    assert code == 70
    assert "ZeroDivisionError" in message
    assert len(message) < 700


@pytest.mark.parametrize(
    "error",
    [
        RayloomError("what", where="where", fix="Fix."),
        InputError("what", where="where", fix="Fix."),
        ResourceError("what"),
        QualityError("what", fix="Fix."),
        InterruptedJobError("what", where="where"),
        SpecError("what", where="where", problems=("one", "two")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_the_trip_between_processes(error: RayloomError) -> None:
    back = pickle.loads(pickle.dumps(error))  # noqa: S301 (its own bytes)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_old_logs_make_room(folder: Path, run) -> None:  # type: ignore[no-untyped-def]
    logs = folder / "store" / ".logs"
    logs.mkdir(parents=True)
    for number in range(60):
        (logs / f"20200101-0000{number:02}-1-old.log").write_text("")
        (logs / f"20200101-0000{number:02}-1-old.jsonl").write_text("")
    run("noisy")
    assert len(list(logs.glob("*.log"))) == 50
    assert {file.stem for file in logs.glob("*.jsonl")} == {file.stem for file in logs.glob("*.log")}
    assert Store(str(folder / "store")).names() == ["pages"]


def test_a_missing_engine_is_named_with_the_way_to_get_it_and_a_missing_file_of_rayloom_is_a_defect() -> None:
    with pytest.raises(ModuleNotFoundError) as engine:
        importlib.import_module("an_engine.part")
    assert str(unwrapped(engine.value)).startswith("The package an_engine is not installed. Install the engines")
    with pytest.raises(ModuleNotFoundError) as own:
        importlib.import_module("rayloom.an_engine")
    assert isinstance(unwrapped(own.value), DefectError)
