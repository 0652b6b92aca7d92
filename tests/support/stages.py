"""Stages that a test puts in the place of a kind's own: noisy ones, and ones that fail in every way."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import Outcome
from rayloom.errors import QualityError
from rayloom.observe.progress import progress, say
from rayloom.specs.base import JobSpec


def noisy(spec: JobSpec, build: Build) -> Outcome:
    """Speaks as engines do: by print, below Python, and from a child process."""
    print("printed")
    os.write(2, b"written below Python\n")
    subprocess.run([sys.executable, "-c", "print('said by a child')"], check=True)
    with progress("working", 2) as bar:
        bar.advance(2)
    say("for the person")
    (build.directory / "done.txt").write_text("done")
    return Outcome("dataset")


def defect(spec: JobSpec, build: Build) -> Outcome:
    noisy(spec, build)
    return {}["weights"]  # type: ignore[no-any-return]


def not_good_enough(spec: JobSpec, build: Build) -> Outcome:
    raise QualityError("Perplexity 90 is over the limit of 80", where=spec.name, fix="Train longer.")


def wrapped(spec: JobSpec, build: Build) -> Outcome:
    try:
        not_good_enough(spec, build)
    except QualityError as error:
        raise RuntimeError("engine wrapped it") from error
    raise AssertionError


def disk_full(spec: JobSpec, build: Build) -> Outcome:
    raise OSError(errno.ENOSPC, "No space left on device", "/big/file")


def out_of_memory(spec: JobSpec, build: Build) -> Outcome:
    raise MemoryError


def stopped(spec: JobSpec, build: Build) -> Outcome:
    raise KeyboardInterrupt
