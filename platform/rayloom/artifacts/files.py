"""The files of an artifact that a glob pattern means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rayloom.artifacts.manifest import MANIFEST_NAME, WORK_NAME
from rayloom.errors import InputError
from rayloom.specs.row_files import matches


def matching_files(folder: Path, pattern: str = "**") -> list[Path]:
    """The files below an artifact's folder (not its manifest) that fit, in the order of their relative paths.

    Raises InputError where none does.
    """
    relative = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    found = [relative[name] for name in sorted(relative) if _is_content(name) and matches(name, pattern)]
    if not found:
        known = ", ".join(sorted(filter(_is_content, relative))[:8]) or "no file at all"
        raise InputError(f"No file fits {pattern!r}", where=str(folder), fix=f"The folder holds: {known}.")
    return found


def _is_content(name: str) -> bool:
    return name != MANIFEST_NAME and name.partition("/")[0] != WORK_NAME


# Files of one JSON value a line.


def read_json_lines(file: Path) -> Iterator[Any]:
    """The values in order. A line ends with a line feed only: texts may hold other breaks (U+2028, U+0085) as they are,
    at which `str.splitlines` would cut a value in two."""
    with file.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield json.loads(line)
