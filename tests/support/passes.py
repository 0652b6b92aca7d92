"""Passes run by a loop in this process, in an order that nothing may depend on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rayloom.artifacts.build import Build, build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact, Store
from rayloom.data import audit
from rayloom.data.exchange.scratch import Scratch
from rayloom.data.filter_pass import Judging, JudgingPass
from rayloom.data.passes import WorkerPool
from rayloom.data.sources.source_files import input_files, read_chunks, reading_jobs
from rayloom.data.steps import clean
from rayloom.dispatch import load_job, resolve
from rayloom.specs.base import JobSpec
from rayloom.specs.clean import CleanSpec


class InProcess:
    """`rayloom.data.passes.Passes` without Ray; what a task returns must survive JSON, as it must on Ray."""

    def judge(self, given: JudgingPass) -> list[dict[str, Any]]:
        judging = Judging(given)
        chunks = [chunk for files in reading_jobs(given.spec, given.files) for chunk in read_chunks(given.spec, files)]
        return [json.loads(json.dumps(judging(chunk))) for chunk in reversed(chunks)]

    def once(self, name: str, work: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(json.dumps(work()))
        return found

    def each_by(
        self, label: str, items: Sequence[int], make: Callable[[], Callable[[int], dict[str, Any]]], workers: WorkerPool
    ) -> list[dict[str, Any]]:
        return self.each(label, items, make())

    def each(self, label: str, items: Sequence[int], work: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
        found = {item: json.loads(json.dumps(work(item))) for item in reversed(items)}
        return [found[item] for item in items]


def cleaned(
    folder: Path,
    job: dict[str, Any],
    num_chunk_bytes: int = 1 << 20,
    change: Callable[[CleanSpec], CleanSpec] = lambda spec: spec,
) -> Artifact:
    """The artifact of a cleaning job, made without Ray. `change`: what a job file cannot say."""
    (folder / "job.yaml").write_text(json.dumps({"kind": "clean", "name": "n"} | job))
    store = Store(str(folder / f"store-{num_chunk_bytes}"), cache=folder / "cache")

    def stage(spec: JobSpec, given: Build) -> Outcome:
        assert isinstance(spec, CleanSpec)
        files = input_files(spec, given.parents)
        numbers = clean(spec, given, files, Scratch(given.work / "scratch"), InProcess())
        return Outcome(audit.content(spec), numbers, headline=audit.headline(numbers))

    loaded = load_job(folder / "job.yaml", [f"chunk_bytes={num_chunk_bytes}"])
    resolved = resolve(loaded, store)
    assert isinstance(resolved.spec, CleanSpec)
    return build(replace(resolved, spec=change(resolved.spec)), store, stage)[0]
