"""Bad input through the command itself: one clear sentence, a non-zero exit code, no traceback, no artifact."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rayloom.cli import main

IMPORT = "kind: import\nname: pages\nsource: {type: folder, path: %s}\ncontent: {type: dataset}\nlicence: MIT\n"
TRAIN = (
    "kind: train\nname: tuned\nbase: %s\ndata: {type: corpus, corpus: 'artifact:c'}\n"
    "global_batch_tokens: 1024\nnum_steps: 1\nlearning_rate: 1e-3\n"
)


def rayloom(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rayloom", *arguments],
        cwd=folder,
        env={**os.environ, "RAYLOOM_STORE": str(folder / "store"), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


CASES = {
    "no such file": ("run", "missing.yaml", 3, "There is no such job file (missing.yaml)"),
    "a folder": ("run", ".", 3, "This is a folder, not a job file"),
    "not text": ("run", "binary.yaml", 3, "The job file is not UTF-8 text (binary.yaml, byte 0)"),
    "not YAML": ("run", "broken.yaml", 2, "This is not YAML"),
    "not a mapping": ("run", "list.yaml", 2, "A job file must be a mapping"),
    "bad keys and types": ("run", "keys.yaml", 2, "The job file has 3 problems"),
    "a path that is not there": ("run", "nowhere.yaml", 3, "not/there"),
    "a base that is not there": ("run", "no-base.yaml", 3, "base names a path that does not exist"),
    "an artifact that is not there": ("run", "no-artifact.yaml", 3, "There is no artifact smollm2"),
    "a plan of it": ("plan", "no-artifact.yaml", 3, "There is no artifact smollm2"),
    "an unknown artifact": ("report", "nothing", 3, "There is no artifact nothing"),
    "a name that is none": ("artifacts show", "../../etc", 3, "There is no artifact ../../etc"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "broken.yaml").write_text("kind: [import")
    (tmp_path / "list.yaml").write_text("- kind")
    (tmp_path / "keys.yaml").write_text((IMPORT % "3").replace("name: pages", "name: Two") + "licens: x\n")
    (tmp_path / "nowhere.yaml").write_text(IMPORT % "not/there")
    (tmp_path / "no-base.yaml").write_text(TRAIN % "./no-model")
    (tmp_path / "no-artifact.yaml").write_text(TRAIN % "artifact:smollm2")
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_clear_error(
    folder: Path, case: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command, argument, code, message = CASES[case]
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RAYLOOM_STORE", str(folder / "store"))
    assert main([*command.split(), argument]) == code
    said = capfd.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert not any((folder / "store").glob("*/*/manifest.json"))


def test_a_process_ends_with_the_code_of_its_error(folder: Path) -> None:
    ended = rayloom(folder, "run", "missing.yaml")
    assert ended.stderr.startswith("error: There is no such job file (missing.yaml)")
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 3


def test_no_command_and_unknown_ones_show_the_usage(folder: Path) -> None:
    for arguments in ((), ("fly",), ("run",), ("artifacts",), ("artifacts", "fly")):
        ended = rayloom(folder, *arguments)
        assert ended.returncode == 2
        assert "usage: rayloom" in ended.stderr


def test_with_debug_the_traceback_is_there(folder: Path) -> None:
    assert "Traceback" in rayloom(folder, "run", "missing.yaml", "--debug").stderr


def test_a_store_that_cannot_be_written_is_said(folder: Path) -> None:
    (folder / "import.yaml").write_text(IMPORT % "./data")
    (folder / "data").mkdir()
    (folder / "data" / "a.txt").write_text("a")
    ended = rayloom(folder, "run", "import.yaml", RAYLOOM_STORE=str(folder / "binary.yaml"))
    assert ended.returncode in (3, 4)
    assert "Traceback" not in ended.stderr
    assert "binary.yaml" in ended.stderr


def test_a_cluster_that_does_not_answer_is_said_before_any_work(folder: Path) -> None:
    (folder / "import.yaml").write_text(IMPORT % ".")
    ended = rayloom(folder, "run", "import.yaml", RAY_ADDRESS="127.0.0.1:1")
    assert ended.returncode == 4
    assert "error: No Ray cluster answers" in ended.stderr
    assert "RAY_ADDRESS=127.0.0.1:1" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_one_line(folder: Path, number: signal.Signals) -> None:
    """The run waits for another builder; it is stopped there, and the other's lock is untouched."""
    (folder / "import.yaml").write_text(IMPORT % "./data")
    (folder / "data").mkdir()
    (folder / "data" / "a.txt").write_text("a")
    planned = rayloom(folder, "plan", "import.yaml")
    version = planned.stderr.rpartition("pages@")[2][:12]
    lock = folder / "store" / "pages" / f".{version}.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "rayloom", "run", "import.yaml"]
        environment = {**os.environ, "RAYLOOM_STORE": str(folder / "store")}
        with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as running:
            assert running.stderr is not None
            assert "another process is making it; waiting" in running.stderr.readline()
            running.send_signal(number)
            rest = running.stderr.read()
            assert running.wait(20) == 130
    assert rest.startswith("stopped; the same command continues where it can")
    assert "Traceback" not in rest
    assert not any((folder / "store").glob("*/*/manifest.json"))
