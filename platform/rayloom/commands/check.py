"""`rayloom check`: validates job files and, for pipelines, the files of their stages."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rayloom.errors import RayloomError
from rayloom.kinds import SPECS
from rayloom.observe.progress import say
from rayloom.pipeline.graph import load_stages
from rayloom.specs.files.load import Job, load
from rayloom.specs.pipeline import PipelineSpec


def check(options: argparse.Namespace) -> int:
    """Validates every file and prints all problems; returns the highest exit code."""
    worst = 0
    for file in options.files:
        try:
            say(f"{file}: ok ({_checked(file)})")
        except RayloomError as error:
            say(f"error: {error}")
            worst = max(worst, error.exit_code)
    return worst


def _checked(file: Path) -> str:
    job = load(file, SPECS)
    summary = f"{job.spec.kind} {job.spec.name}"
    if isinstance(job.spec, PipelineSpec):
        stages = load_stages(job.spec, job, _load)
        summary += f", {len(stages)} stages"
    return summary


def _load(file: Path, overrides: Sequence[str]) -> Job:
    return load(file, SPECS, overrides)
