"""`rayloom check`, `plan` and `run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rayloom.artifacts.store import Store
from rayloom.dispatch import load_job, resolve
from rayloom.dispatch import run as run_job
from rayloom.errors import RayloomError
from rayloom.kinds import KINDS, imported
from rayloom.observe.progress import console, say
from rayloom.specs.pipeline import PipelineSpec


def check(files: Sequence[Path]) -> int:
    """Validates every file and prints all problems; the exit code of the worst."""
    worst = 0
    for file in files:
        try:
            job = load_job(file)
        except RayloomError as error:
            say(f"error: {error}")
            worst = max(worst, error.exit_code)
        else:
            say(f"{file}: ok ({job.spec.kind} {job.spec.name})")
    return worst


def plan(file: Path, overrides: Sequence[str]) -> int:
    """Prints what a job would do; 2 where it would fail."""
    job = load_job(file, overrides)
    resolved = resolve(job, Store.beside(job.directory))
    sheet = imported(KINDS[job.spec.kind].planner)(job.spec, resolved.parents, job.directory)
    console.print(sheet.rendered())
    return 2 if sheet.problems else 0


def run(file: Path, overrides: Sequence[str]) -> int:
    """Makes the job's artifact, or says that it is there already."""
    job = load_job(file, overrides)
    store = Store.beside(job.directory)
    if isinstance(job.spec, PipelineSpec):
        from rayloom.pipeline.run import run_pipeline

        return run_pipeline(job.spec, job, store, load_job, run_job)
    foreground = KINDS[job.spec.kind].foreground
    if foreground is not None:
        imported(foreground)(job.spec, resolve(job, store).parents, job.directory)
        return 0
    artifact, made = run_job(job, store)
    say(f"{artifact.id} {'made' if made else 'was finished already'}: {artifact.path}")
    return 0
