"""`rayloom init`: every starter and recipe is written whole, with the job files that make what it names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rayloom.cli import main
from rayloom.commands import shipped
from rayloom.commands.init import recipes
from rayloom.dispatch import load_job
from rayloom.specs.base import references

NAMES = list(recipes(shipped.job_files()))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_written_with_what_it_needs(name: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["init", name]) == 0
    said = capfd.readouterr().err
    files = sorted(folder.rglob("*.yaml"))
    assert files
    jobs = {file: load_job(file).spec for file in files}
    made = {job.name for job in jobs.values()}
    if not name.endswith("h100"):
        here = [
            job for file, job in jobs.items() if not file.stem.endswith("h100")
        ]  # the others want a base of their own
        named = {ref.text.removeprefix("artifact:") for job in here for ref in references(job) if ref.text[:2] != "./"}
        assert named <= made, "a job file of the recipe names what none of its files makes"
    for file in files:
        assert "jobs/recipes" not in file.read_text() and "jobs/quickstart" not in file.read_text()
    order = [line.removeprefix("rayloom run ") for line in said.splitlines() if line.startswith("rayloom run ")]
    assert order == ["quickstart/pipeline.yaml"] or {Path(line).name for line in order} == {f.name for f in files}


def test_makers_come_before_what_they_make(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "recipes/spam"]) == 0
    order = [line for line in capfd.readouterr().err.splitlines() if line.startswith("rayloom run ")]
    assert order == [
        "rayloom run recipes/imports/minilm.yaml",
        "rayloom run recipes/imports/spam-assassin.yaml",
        "rayloom run recipes/spam/train.yaml",
        "rayloom run recipes/spam/evaluate.yaml",
    ]


def test_scripts_that_make_a_recipes_rows_come_with_it(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "recipes/rewards", "--output", "team"]) == 0
    script = folder / "team/recipes/rewards/one_word.py"
    rows = [json.loads(line) for line in subprocess.check_output([sys.executable, script]).splitlines()]
    assert len(rows) > 100
    text = (script.parent / "verifiable.yaml").read_text()
    assert "python team/recipes/rewards/one_word.py > team/recipes/rewards/rows/one-word.jsonl" in text
    assert capfd.readouterr().err.splitlines()[-1] == "rayloom run team/recipes/rewards/verifiable-8xh100.yaml"


def test_another_folder_is_named_in_the_files_too(folder: Path) -> None:
    assert main(["init", "recipes/serve", "--output", "team"]) == 0
    text = (folder / "team/recipes/serve/team-endpoint.yaml").read_text()
    assert "rayloom run team/recipes/serve/team-endpoint.yaml" in text
    assert "rayloom run team/quickstart/import-smollm2.yaml" in text


def test_nothing_is_written_if_a_file_is_there(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    there = folder / "recipes/spam/evaluate.yaml"
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    assert main(["init", "recipes/spam"]) == 3
    assert "is there already (recipes/spam/evaluate.yaml)" in capfd.readouterr().err
    assert there.read_text() == "mine"
    assert list(folder.rglob("*.yaml")) == [there]


def test_recipes_share_the_files_that_both_need(folder: Path) -> None:
    assert main(["init", "recipes/spam"]) == 0
    assert main(["init", "recipes/sentiment-en"]) == 0
    assert main(["init", "recipes/spam"]) == 0
    (folder / "recipes/imports/minilm.yaml").write_text("mine")
    assert main(["init", "recipes/spam"]) == 3
    assert (folder / "recipes/imports/minilm.yaml").read_text() == "mine"


def test_the_list_has_every_starter_and_recipe(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--list"]) == 0
    listed = capfd.readouterr().out
    assert all(f"\n{name} " in f"\n{listed}" for name in [*shipped.templates(), *NAMES])
    assert main(["init", "recipes/spm"]) == 3
    assert "did you mean recipes/spam?" in capfd.readouterr().err


def test_job_files_of_an_installed_wheel_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site" / "rayloom"
    monkeypatch.setattr(shipped, "PACKAGE", installed)
    assert main(["init", "quickstart"]) == 3, "neither a checkout nor a wheel with job files"
    (installed / "jobs" / "quickstart").mkdir(parents=True)
    assert shipped.jobs_folder() == installed / "jobs"
