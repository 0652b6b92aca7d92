"""Passes run by a loop in this process, in an order that nothing may depend on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rayloom.artifacts.build import Build, build
from rayloom.artifacts.manifest import FileEntry, Outcome
from rayloom.artifacts.store import Artifact, Store
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.data import audit
from rayloom.data.exchange.mail import Mail, part_of
from rayloom.data.exchange.work_files import WorkFiles
from rayloom.data.filter_pass import Judging, JudgingPass
from rayloom.data.passes import WorkerPool
from rayloom.data.sources.source_files import input_files, read_chunks, reading_jobs
from rayloom.data.steps import clean
from rayloom.dispatch import load_job, resolve
from rayloom.specs.base import JobSpec
from rayloom.specs.clean import CleanSpec


class KilledError(Exception):
    """What ends a run in the middle of a pass."""


class InProcess:
    """`rayloom.data.passes.Passes` without Ray; what a task returns must survive JSON, as it must on Ray.

    With `files`, results of finished passes are kept there. `dies_in`: the pass whose end is not reached.
    """

    def __init__(self, files: WorkFiles | None = None, dies_in: str = "") -> None:
        self.files, self.dies_in = files, dies_in
        self.made: list[str] = []
        """The passes that were not finished before."""

    def judge(self, given: JudgingPass) -> Iterator[dict[str, Any]]:
        judging = Judging(given)
        chunks = [chunk for files in reading_jobs(given.spec, given.files) for chunk in read_chunks(given.spec, files)]
        yield from (json.loads(json.dumps(judging(chunk))) for chunk in reversed(chunks))

    def once(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] | None = self.files.load_json(name) if self.files else None
        if found is None:
            self.made.append(name)
            found = json.loads(json.dumps(work()))
            if name == self.dies_in:
                raise KilledError(name)
            if self.files:
                self.files.save_json(name, found)
        assert found is not None
        return found

    def each_by(
        self, label: str, items: Sequence[int], make: Callable[[], Callable[[int], dict[str, Any]]], workers: WorkerPool
    ) -> list[dict[str, Any]]:
        return self.each(label, items, make())

    def each(self, label: str, items: Sequence[int], work: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
        return self.exchange(label, items, lambda item, mail: work(item))[0]

    def exchange(
        self,
        label: str,
        items: Sequence[int],
        work: Callable[[int, Mail], dict[str, Any]],
        *,
        reads: Sequence[Any] = (),
        writes: Mapping[str, int] | None = None,
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        records, sent = {}, {}
        for item in reversed(items):
            mail = Mail([part_of(packet, item, item + 1) for packets in reads for packet in packets])
            records[item] = json.loads(json.dumps(work(item, mail)))
            sent[item] = mail
        return [records[item] for item in items], {
            name: [sent[item].sent(name) for item in items] for name in writes or {}
        }


def work_files(folder: Path) -> WorkFiles:
    """Files of passes in a folder of this machine."""
    return WorkFiles(WorkCopy(Store(str(folder)), "n", "v"), "work")


def cleaned(
    folder: Path,
    job: dict[str, Any],
    num_chunk_bytes: int = 1 << 20,
    change: Callable[[CleanSpec], CleanSpec] = lambda spec: spec,
    store: Store | None = None,
    dies_in: str = "",
    made: list[str] | None = None,
) -> Artifact:
    """The artifact of a cleaning job, made without Ray.

    `change`: what a job file cannot say. `store`: by default a folder. `dies_in`: see `InProcess`. `made`: gets the
    names of the passes that were run.
    """
    (folder / "job.yaml").write_text(json.dumps({"kind": "clean", "name": "n"} | job))
    store = store or Store(str(folder / f"store-{num_chunk_bytes}"), cache=folder / "cache")

    def stage(spec: JobSpec, given: Build) -> Outcome:
        assert isinstance(spec, CleanSpec)
        files = input_files(spec, given.parents)
        work = WorkFiles.of(given, spec.name, "work")
        passes = InProcess(work, dies_in)
        passes.made = passes.made if made is None else made
        numbers = clean(spec, given, files, work, passes)
        stored = tuple(FileEntry(**entry) for entry in numbers.pop("stored"))
        return Outcome(audit.content(spec), numbers, headline=audit.headline(numbers), stored=stored)

    loaded = load_job(folder / "job.yaml", [f"chunk_bytes={num_chunk_bytes}"])
    resolved = resolve(loaded, store)
    assert isinstance(resolved.spec, CleanSpec)
    return build(replace(resolved, spec=change(resolved.spec)), store, stage)[0]
