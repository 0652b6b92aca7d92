"""Trains a recipe in this process, without Ray, and asks its result about the rows that were held out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rayloom.artifacts.store import Store
from rayloom.dispatch import load_job, resolve
from rayloom.evaluate.checks.task import judge
from rayloom.models.responders.responder import predictor_of
from rayloom.models.responders.subject import Subject
from rayloom.specs.training.adapters import is_whole_model
from rayloom.text.labelled.dataset import EXAMPLES_NAME
from rayloom.text.labelled.examples import Example, read_examples
from rayloom.train.job import TrainJob
from rayloom.train.loop.loop import train
from rayloom.train.loop.run_log import read_log
from rayloom.train.prepare import job_of
from rayloom.train.process_group import Group


@dataclass(frozen=True)
class Trained:
    """What came of the training. Its files are there until the block ends."""

    job: TrainJob
    base: Path
    log: list[dict[str, Any]]
    seconds: float
    """Of all steps."""
    predictor: Any
    examples: list[Example]
    """Those that were held out."""
    metrics: dict[str, Any]
    """What `predictor` is worth on them."""


@contextmanager
def trained(recipe: Path, overrides: Sequence[str]) -> Iterator[Trained]:
    """Raises ValueError if the recipe trains no base."""
    file = load_job(recipe, overrides)
    resolved = resolve(file, Store.beside(file.directory))
    spec: Any = resolved.spec
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        work.mkdir()
        job = job_of(spec, resolved.parents, work, Path(folder) / "out")
        if job.base is None:
            raise ValueError(f"{recipe.name} trains no base")
        train(job, Group(0, 1, torch.device("cpu")), lambda event: None)
        log = list(read_log(job.log))
        seconds = sum(event["seconds"] for event in log if event["event"] == "step")
        base, adapter = (job.out, None) if is_whole_model(spec.adapter) else (job.base, job.out)
        predictor = predictor_of(Subject("model", recipe.stem, base, adapter))
        examples = list(read_examples(job.heldout["heldout"] / EXAMPLES_NAME))
        metrics = judge(predictor.task, examples, predictor.predict(examples, 16)).metrics
        yield Trained(job, job.base, log, seconds, predictor, examples, metrics)
