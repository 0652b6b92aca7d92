"""Runs a `kind: clean` job on Ray Data."""

from __future__ import annotations

from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import FileEntry, Outcome
from rayloom.data import audit
from rayloom.data.exchange.work_files import WorkFiles
from rayloom.data.ray_passes import RayPasses, ray_data
from rayloom.data.sources.source_files import input_files
from rayloom.data.steps import clean
from rayloom.observe.progress import say
from rayloom.observe.ray_session import connect
from rayloom.specs.clean import CleanSpec


def run(spec: CleanSpec, build: Build) -> Outcome:
    """Cleans, deduplicates and splits the sources; for a corpus, also tokenises, mixes and packs them."""
    files = input_files(spec, build.parents)
    session = connect()
    work = WorkFiles.of(build, spec.name, f"chunks-of-{spec.chunk_bytes}")
    if work.is_begun():
        say(f"{spec.name}: continuing what an earlier run left")
    passes = RayPasses(spec.name, work, session)
    with ray_data(spec.chunk_bytes):
        numbers = clean(spec, build, files, work, passes)
    stored = tuple(FileEntry(**entry) for entry in numbers.pop("stored"))
    for line in audit.lines(numbers):
        say(line)
    numbers |= {"seconds": passes.seconds, "input_bytes": sum(file.size_bytes for file in files)}
    licences = tuple(sorted({source.licence for source in spec.sources if source.licence is not None}))
    return Outcome(audit.content(spec), numbers, licences, headline=audit.headline(numbers), stored=stored)
