"""A small kind of job and its stage, for tests of the store and of building; a folder in place of an artifact."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Literal
from uuid import uuid4

from rayloom.artifacts.build import Build, ResolvedJob
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact
from rayloom.specs.base import JobSpec


@dataclass(frozen=True)
class Folder:
    """Stands for an artifact of which only the files are looked at, and what its import noted: nothing."""

    path: Path
    manifest: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(metrics={}, digest=uuid4().hex))


class NoteSpec(JobSpec):
    """Writes a text."""

    kind: Literal["note"] = "note"
    text: str = "hello"


def write_note(spec: JobSpec, build: Build) -> Outcome:
    assert isinstance(spec, NoteSpec)
    (build.directory / "texts").mkdir()
    (build.directory / "texts" / "note.txt").write_text(spec.text)
    (build.directory / "length.txt").write_text(str(len(spec.text)))
    return Outcome("report", metrics={"characters": len(spec.text)}, licences=("MIT",), headline="written")


def note(
    text: str = "hello",
    name: str = "note",
    parents: dict[str, Artifact] | None = None,
    stage_version: int = 1,
    outside: dict[str, str] | None = None,
) -> ResolvedJob:
    return ResolvedJob(NoteSpec(name=name, text=text), stage_version, parents or {}, Path("/nowhere"), outside or {})
