"""The tensors in a folder's safetensors files, from the file headers: names, types, shapes and sizes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rayloom.errors import InputError

FLOAT_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""torch's names of safetensors' floating-point types."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file."""

    type: str
    """As safetensors names it: `BF16`, `I8`."""
    shape: tuple[int, ...]

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        digits = re.search(r"\d+", self.type)  # the bits of a value: `BF16`, `F8_E4M3`; `BOOL` has none
        return self.num_values * (int(digits[0]) if digits else 8) // 8


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
        with safe_open(file, framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (it is no mapping)
            return {name: StoredTensor(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except SafetensorError as error:
        what = f"The weight file is damaged: {error}"
        raise InputError(what, where=str(file), fix="Make or fetch it again.") from None
