"""What clients ask under load: made-up questions that all differ, or the prompts of a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

from rayloom.errors import InputError
from rayloom.serve.load_test.clients import LoadRequest

_SUBJECTS = (
    "the sea",
    "a mountain village",
    "an old clock",
    "the first train",
    "bread",
    "a rainy day",
    "the moon",
    "bees",
)


def requests_of(file: Path | None, num_requests: int, max_new_tokens: int, extra: dict[str, Any]) -> list[LoadRequest]:
    """As many requests as asked for: the file's prompts over and over, or made-up questions that all differ."""
    texts = cycle(prompts_in(file)) if file is not None else made_up_prompts()
    return [LoadRequest(text, max_new_tokens, extra) for text in islice(texts, num_requests)]


def prompts_in(file: Path) -> list[str]:
    """One prompt a line: plain text, or a JSON object with `prompt`. Raises InputError."""
    try:
        with file.open(encoding="utf-8") as read:
            lines = [line.rstrip("\n") for line in read if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The prompts cannot be read: {error}", where=str(file)) from None
    if not lines:
        raise InputError("There is no prompt in this file", where=str(file), fix="Write one a line.")
    return list(_texts(lines, file))


def _texts(lines: Sequence[str], file: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.startswith("{"):
            yield line
            continue
        try:
            yield str(json.loads(line)["prompt"])
        except (ValueError, LookupError):
            what = "This line is no JSON object with a `prompt`"
            raise InputError(what, where=f"{file}:{number}", fix='Write {"prompt": "…"}, or plain text.') from None


def made_up_prompts() -> Iterator[str]:
    """Different questions without end, so that no answer comes out of the prefix cache whole."""
    for number in count():
        yield f"Tell me story number {number + 1} about {_SUBJECTS[number % len(_SUBJECTS)]}."
