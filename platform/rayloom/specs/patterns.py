"""Which files a glob pattern of a job file means, the same everywhere."""

from __future__ import annotations

import functools
import re


def matches(path: str, pattern: str) -> bool:
    """Whether a relative path with forward slashes fits: `*` and `?` stay in one folder, `**` crosses folders."""
    return _compiled(pattern).fullmatch(path) is not None


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    meaning = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    return re.compile("".join(meaning.get(piece, re.escape(piece)) for piece in pieces), re.DOTALL)
