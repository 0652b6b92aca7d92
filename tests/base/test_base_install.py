"""Rayloom without the engines, installed from its wheel: `make test-base` runs this in an environment of its own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sysconfig
from pathlib import Path

import pytest

import rayloom

JOBS = Path(rayloom.__file__).parent / "jobs"
ENGINES = ("torch", "ray", "transformers", "vllm", "deepspeed", "peft", "datasets", "pyarrow", "sklearn")
KINDS = (
    "import",
    "clean",
    "generate",
    "train",
    "tune",
    "evaluate",
    "compare",
    "predict",
    "merge",
    "quantize",
    "serve",
    "pipeline",
)

CLEAN = """
kind: clean
name: corpus
sources: [{name: pages, dataset: ./pages, files: "*.txt", format: {type: text}, domain: web}]
output: {type: tokens, tokenizer: {type: train, vocabulary_size: 300}}
"""


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`rayloom …`, called far from any checkout."""
    program = Path(sysconfig.get_path("scripts")) / "rayloom"
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def said(folder: Path, *arguments: str) -> str:
    done = command(folder, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_no_engine_is_here_and_nothing_of_a_checkout() -> None:
    assert [name for name in ENGINES if importlib.util.find_spec(name)] == []
    assert Path(rayloom.__file__).is_relative_to(sysconfig.get_path("purelib"))


def test_every_shipped_job_file_is_valid(tmp_path: Path) -> None:
    files = [str(file) for file in JOBS.rglob("*.yaml")]
    assert len(files) > 60
    said(tmp_path, "check", *files)


def test_a_wrong_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text((JOBS / "quickstart/finetune.yaml").read_text().replace("rank:", "rnk:", 1))
    done = command(tmp_path, "check", "wrong.yaml")
    assert done.returncode == 2
    assert "did you mean" in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_schema_and_a_page(tmp_path: Path, kind: str) -> None:
    assert json.loads(said(tmp_path, "schema", kind))["properties"]["kind"]
    assert "name" in said(tmp_path, "explain", kind)


def test_the_starters_are_written_and_valid_side_by_side(tmp_path: Path) -> None:
    starters = [file.stem for file in (JOBS.parent / "templates").glob("*.yaml")]
    assert set(starters) > set(KINDS) - {"train"}
    for starter in starters:
        said(tmp_path, "init", starter)
    said(tmp_path, "check", *(f"{starter}.yaml" for starter in starters))


def test_the_quickstart_is_written_and_valid(tmp_path: Path) -> None:
    said(tmp_path, "init", "quickstart")
    said(tmp_path, "check", *map(str, (tmp_path / "quickstart").glob("*.yaml")))


def test_help_names_the_commands(tmp_path: Path) -> None:
    assert "explain" in said(tmp_path, "--help")
    assert said(tmp_path, "--version").strip() == f"rayloom {importlib.metadata.version('rayloom')}"


def test_a_command_that_needs_an_engine_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/page.txt").write_text("A text.")
    (tmp_path / "job.yaml").write_text(CLEAN)
    done = command(tmp_path, "run", "job.yaml")
    assert done.returncode == 4
    assert "is not installed. Install the engines" in done.stderr


def test_doctor_names_what_is_missing_and_the_list_of_tested_packages(tmp_path: Path) -> None:
    lock = Path(said(tmp_path, "doctor", "--lock", "cpu").strip())
    assert "torch==" in lock.read_text()
    done = command(tmp_path, "doctor")
    assert done.returncode == 4
    assert "accelerate is missing" in done.stdout
    assert "things that Rayloom needs are missing" in done.stdout + done.stderr
