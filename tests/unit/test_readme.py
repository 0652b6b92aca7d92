"""The README's job file is one that `rayloom check` accepts, and what it counts is there."""

from __future__ import annotations

import re
from pathlib import Path

from rayloom.dispatch import load_job

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_job_file_is_right(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert block is not None
    file = tmp_path / "readme.yaml"
    file.write_text(block.group(1), encoding="utf-8")
    assert load_job(file).spec.kind == "train"


def test_the_quickstart_has_as_many_job_files_as_it_says() -> None:
    assert len(list((ROOT / "jobs" / "quickstart").glob("*.yaml"))) == 15, "fourteen stages and the pipeline"
