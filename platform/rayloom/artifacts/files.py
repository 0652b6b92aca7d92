"""The files of an artifact that match a glob pattern, and the values of a JSON Lines file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rayloom.artifacts.manifest import MANIFEST_NAME, WORK_NAME, FileEntry, Manifest
from rayloom.errors import InputError
from rayloom.specs.row_files import matches


def matching_entries(manifest: Manifest, pattern: str = "**") -> list[FileEntry]:
    """The files of an artifact that match, sorted by path, without fetching any. Raises InputError if none matches."""
    matching = sorted((file for file in manifest.files if matches(file.path, pattern)), key=lambda file: file.path)
    if not matching:
        raise _no_match(pattern, manifest.id, [file.path for file in manifest.files])
    return matching


def matching_files(folder: Path, pattern: str = "**") -> list[Path]:
    """The files below an artifact's folder that match, without its manifest, sorted by relative path.

    Raises InputError if none matches.
    """
    relative = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    matching = [relative[name] for name in sorted(relative) if _is_content(name) and matches(name, pattern)]
    if not matching:
        raise _no_match(pattern, str(folder), filter(_is_content, relative))
    return matching


def _no_match(pattern: str, where: str, names: Iterable[str]) -> InputError:
    known = ", ".join(sorted(names)[:8]) or "no file at all"
    return InputError(f"No file fits {pattern!r}", where=where, fix=f"The folder holds: {known}.")


def _is_content(name: str) -> bool:
    return name != MANIFEST_NAME and name.partition("/")[0] != WORK_NAME


# JSON Lines.


def read_json_lines(file: Path) -> Iterator[Any]:
    """The values in order. Only a line feed ends a line: `str.splitlines` would also split inside a text that holds
    another line break (U+2028, U+0085). Raises InputError at a damaged line."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                fix = "`rayloom artifacts verify` says what changed since it was made; run its job again."
                raise InputError(f"This line is damaged ({error})", where=f"{file}, line {number}", fix=fix) from None
            yield value
