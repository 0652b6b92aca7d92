"""Which files of a folder or archive a glob pattern means, the same in every room."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from rayloom.artifacts.manifest import MANIFEST_NAME, WORK_NAME
from rayloom.errors import InputError


def matches(path: str, pattern: str) -> bool:
    """Whether a relative path with forward slashes fits: `*` and `?` stay in one folder, `**` crosses folders."""
    return _compiled(pattern).fullmatch(path) is not None


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


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    meaning = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    return re.compile("".join(meaning.get(piece, re.escape(piece)) for piece in pieces), re.DOTALL)
