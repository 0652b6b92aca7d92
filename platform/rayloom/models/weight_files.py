"""The tensors in a folder's safetensors files, from the file headers: names, types, shapes and sizes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayloom.errors import InputError

FLOAT_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""torch's names of safetensors' floating-point types."""
MOST_HEADER_BYTES = 100_000_000
"""Limit of the safetensors format."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file."""

    type: str
    """As safetensors names it: `BF16`, `I8`."""
    shape: tuple[int, ...]

    num_bytes: int

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)


def stored_tensors(folder: Path, pattern: str = "*.safetensors") -> dict[str, StoredTensor]:
    """Every tensor in the folder's files, by name. Raises InputError if there is no file or one is damaged."""
    files = sorted(folder.glob(pattern))
    if not files:
        fix = "Give a folder with its weights in safetensors format."
        raise InputError(f"There are no weights ({pattern}) here", where=str(folder), fix=fix)
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        tensors |= _header(file)
    return tensors


def _header(file: Path) -> dict[str, StoredTensor]:
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            values = json.loads(stream.read(size)) if 0 < size <= MOST_HEADER_BYTES else None
        if not isinstance(values, dict):
            raise ValueError("it has no header")
        values.pop("__metadata__", None)
        return {name: _stored(facts) for name, facts in values.items()}
    except (ValueError, KeyError, TypeError) as error:
        what = f"The weight file is damaged: {error}"
        raise InputError(what, where=str(file), fix="Make or fetch it again.") from None


def _stored(facts: Mapping[str, Any]) -> StoredTensor:
    begin, end = facts["data_offsets"]
    return StoredTensor(str(facts["dtype"]), tuple(facts["shape"]), end - begin)
