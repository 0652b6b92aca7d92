"""Runs the stages of a pipeline in the order of their needs; finished results are found in the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.table import Table

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import RayloomError
from rayloom.observe.progress import console, say
from rayloom.pipeline.graph import LoadJob, StageJob, load_stages
from rayloom.specs.load import Job
from rayloom.specs.pipeline import PipelineSpec

RunJob = Callable[[Job, Store], tuple[Artifact, bool]]


def run_pipeline(spec: PipelineSpec, pipeline: Job, store: Store, load_job: LoadJob, run_job: RunJob) -> int:
    """Runs every stage and prints what was made; returns the exit code.

    A stage's error ends the pipeline, naming what is finished: the same command goes on from there.
    """
    stages = load_stages(spec, pipeline, load_job)
    started = time.monotonic()
    results: list[tuple[StageJob, Artifact, bool]] = []
    for number, item in enumerate(stages, 1):
        say(f"[{number}/{len(stages)}] {item.stage.name}")
        try:
            artifact, made = run_job(item.job, store)
        except RayloomError:
            done = ", ".join(finished.stage.name for finished, _, _ in results) or "nothing"
            say(f"stage {item.stage.name} failed; finished before it: {done}. The same command continues there.")
            raise
        results.append((item, artifact, made))
    console.print(_table(spec, results))
    say(f"{len(stages)} stages in {time.monotonic() - started:.0f} s")
    for line in spec.next_steps:
        say(line)
    return 0


def _table(spec: PipelineSpec, results: Sequence[tuple[StageJob, Artifact, bool]]) -> Table:
    table = Table("stage", "artifact", "", "result", title=spec.name, title_justify="left")
    for item, artifact, made in results:
        manifest = artifact.manifest
        when = f"{manifest.seconds:.0f} s" if made else "reused"
        table.add_row(item.stage.name, manifest.id, when, manifest.headline)
    return table
