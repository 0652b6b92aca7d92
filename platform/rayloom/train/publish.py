"""From a finished run to an artifact's files and numbers."""

from __future__ import annotations

import os
import shutil
from typing import Any

from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import Outcome
from rayloom.specs.train import NoAdapter
from rayloom.train.job import TrainJob
from rayloom.train.log import read_log
from rayloom.train.prepare import row_counts
from rayloom.train.summary import summarize


def publish(job: TrainJob, build: Build) -> Outcome:
    """Puts model, log and held-out rows into the artifact. The work folder keeps them until the artifact is whole."""
    shutil.copytree(job.out, build.directory, copy_function=_linked, dirs_exist_ok=True)
    shutil.copyfile(job.log, build.directory / "metrics.jsonl")
    shutil.copytree(next(iter(job.heldout.values())), build.directory / "heldout")
    metrics = summarize(read_log(job.log)) | {"rows": row_counts(job.work)}
    if not metrics["rows"]:
        del metrics["rows"]
    is_adapter = not isinstance(job.spec.adapter, NoAdapter)
    return Outcome("adapter" if is_adapter else "model", metrics, headline=_headline(metrics))


def _linked(source: str, target: str) -> None:
    """The same file under a second name, where the file system has that; else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _headline(metrics: dict[str, Any]) -> str:
    said = []
    for name, found in metrics["heldout"].items():
        before, after = found["before"]["perplexity"], found["after"]["perplexity"]
        said.append(f"{name} perplexity {before:,.1f} → {after:,.1f}")
    return ", ".join(said)
