"""A kind of job is a line in `kinds.py`: the commands know none by name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact, Store
from rayloom.cli import main
from rayloom.dispatch import load_job, resolve
from rayloom.dispatch import run as run_job
from rayloom.kinds import KINDS, Kind
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.observe.report_page import Section, table
from rayloom.specs.base import DatasetRef, JobSpec


class TallySpec(JobSpec):
    """Counts the lines of a data set."""

    kind: Literal["tally"]
    data: DatasetRef
    """What is counted."""


def _lines(data: Artifact) -> int:
    return sum(len(file.read_bytes().splitlines()) for file in data.path.rglob("*.txt"))


def stage(_: TallySpec, building: Build) -> Outcome:
    num_lines = _lines(building.parents["data"])
    (building.directory / "lines").write_text(str(num_lines))
    return Outcome("report", {"lines": num_lines}, headline=f"{num_lines} lines")


def planned(_: TallySpec, parents: dict[str, Artifact], __: Path) -> PlanSheet:
    sheet = PlanSheet()
    sheet.add("lines", _lines(parents["data"]))
    return sheet


def reported(artifact: Artifact) -> list[Section]:
    return [Section("How many lines", table(("lines",), [(artifact.manifest.metrics["lines"],)]))]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job of the toy kind, with its data, in a folder in which commands are called."""
    toy = Kind(f"{__name__}:TallySpec", f"{__name__}:stage", f"{__name__}:planned", f"{__name__}:reported", 7)
    monkeypatch.setitem(KINDS, "tally", toy)
    monkeypatch.setenv("RAYLOOM_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "tally.yaml").write_text("kind: tally\nname: counted\ndata: ./pages\n")
    return tmp_path / "tally.yaml"


def test_a_new_kind_is_made_once_and_its_parents_are_known(file: Path, tmp_path: Path) -> None:
    job, store = load_job(file), Store(str(tmp_path / "store"))
    artifact, is_new = run_job(job, store)
    assert is_new and artifact.manifest.metrics == {"lines": 3} and artifact.manifest.stage_version == 7
    assert [parent.field for parent in artifact.manifest.parents] == ["data"]
    assert run_job(job, store) == (artifact, False)
    assert resolve(job, store, fetch=False).version == artifact.manifest.version


def test_the_commands_take_a_new_kind(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "tally.yaml"]) == 0
    assert "ok (tally counted)" in capfd.readouterr().err
    assert main(["run", "tally.yaml"]) == 0
    assert "3 lines" in capfd.readouterr().err
    assert main(["plan", "tally.yaml"]) == 0
    assert "finished already" in capfd.readouterr().err
    assert main(["report", "counted", "--output", "page.html"]) == 0
    assert "How many lines" in (file.parent / "page.html").read_text()
    assert main(["schema", "tally"]) == 0
    assert "What is counted." in capfd.readouterr().out
