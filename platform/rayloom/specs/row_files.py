"""How the files of rows that a job names are read."""

from __future__ import annotations

import codecs
from typing import Annotated

from pydantic import AfterValidator


def _check_encoding(name: str) -> str:
    try:
        codecs.getincrementaldecoder(name)(errors="strict").decode(b"")
        "".encode(name)
    except (LookupError, TypeError, AttributeError):
        raise ValueError("is no encoding of text that Python knows; common ones are gb18030, big5, latin-1") from None
    return name


Encoding = Annotated[str, AfterValidator(_check_encoding)]
"""A text encoding by its name in Python, such as gb18030, shift_jis, latin-1 or utf-16."""
