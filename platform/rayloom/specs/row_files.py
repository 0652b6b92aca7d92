"""How the files of rows that a job names are read."""

from __future__ import annotations

import codecs
from typing import Annotated

from pydantic import AfterValidator

from rayloom.specs.base import Spec


def _check_encoding(name: str) -> str:
    try:
        codecs.getincrementaldecoder(name)(errors="strict").decode(b"")
        "".encode(name)
    except (LookupError, TypeError, AttributeError):
        raise ValueError("is no encoding of text that Python knows; common ones are gb18030, big5, latin-1") from None
    return name


Encoding = Annotated[str, AfterValidator(_check_encoding)]
"""A text encoding by its name in Python, such as gb18030, shift_jis, latin-1 or utf-16."""


class RowFiles(Spec):
    """Which files of a source are read, and how their bytes are."""

    files: str = "**"
    """Glob pattern of the files to read."""
    encoding: Encoding | None = None
    """Of text that is not UTF-8: `gb18030`, `latin-1`, … A byte order mark in a file counts more."""
    damaged_files: tuple[str, ...] = ()
    """Names (glob patterns) of files that may be damaged: what can be read of them is taken. Any other damaged file
    stops the job."""
