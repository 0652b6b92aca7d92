"""What the safetensors files of a folder hold, read off their headers: names, types, shapes and bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayloom.errors import InputError

FLOAT_TYPES = ("F64", "F32", "F16", "BF16")
BF16_BYTES = 2
MOST_HEADER_BYTES = 100_000_000
"""The format's own limit."""


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
    """Every tensor of the folder's files by name. Raises InputError where there is no file, or a damaged one."""
    files = sorted(folder.glob(pattern))
    if not files:
        fix = "Give a folder with its weights in safetensors format."
        raise InputError(f"There are no weights ({pattern}) here", where=str(folder), fix=fix)
    found: dict[str, StoredTensor] = {}
    for file in files:
        found |= _header(file)
    return found


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


@dataclass(frozen=True)
class Sizes:
    """Bytes of a quantised model beside those of the same model in bf16."""

    linear_bytes: int
    """Quantised layers with their scales."""
    linear_bf16_bytes: int
    file_bytes: int
    """All weight files."""
    file_bf16_bytes: int

    @property
    def linear_share(self) -> float:
        return self.linear_bytes / self.linear_bf16_bytes

    @property
    def file_share(self) -> float:
        return self.file_bytes / self.file_bf16_bytes

    def as_metrics(self) -> dict[str, Any]:
        return {
            "linear_bytes": {"before": self.linear_bf16_bytes, "after": self.linear_bytes, "share": self.linear_share},
            "file_bytes": {"before": self.file_bf16_bytes, "after": self.file_bytes, "share": self.file_share},
        }


def compare_sizes(before: Mapping[str, StoredTensor], folder: Path, layers: Iterable[str]) -> Sizes:
    """Sizes of the quantised model in `folder`; `layers` names what was quantised, `before` the tensors it was."""
    layers = tuple(layers)
    names = tuple(f"{layer}." for layer in layers)
    after = stored_tensors(folder)
    # A head that was one tensor with the embeddings did not stand in the file before.
    new = [
        after[name].num_values * BF16_BYTES for name in (f"{layer}.weight" for layer in layers) if name not in before
    ]
    return Sizes(
        linear_bytes=sum(tensor.num_bytes for name, tensor in after.items() if name.startswith(names)),
        linear_bf16_bytes=sum(as_bf16_bytes(tensor) for name, tensor in before.items() if name.startswith(names))
        + sum(new),
        file_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        file_bf16_bytes=sum(as_bf16_bytes(tensor) for tensor in before.values()),
    )


def as_bf16_bytes(tensor: StoredTensor) -> int:
    """What the tensor takes in a bf16 model, whichever precision it is stored in."""
    return tensor.num_values * BF16_BYTES if tensor.type in FLOAT_TYPES else tensor.num_bytes
