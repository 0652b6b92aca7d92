"""Files of one JSON value a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_json_lines(file: Path) -> Iterator[Any]:
    """The values in order. A line ends with a line feed only: texts may hold other breaks (U+2028, U+0085) as they are,
    at which `str.splitlines` would cut a value in two."""
    with file.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield json.loads(line)
