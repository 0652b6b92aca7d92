"""Size in bytes of a quantised model's layers and files, compared with the same model in bf16."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayloom.models.weight_files import FLOAT_TYPES, StoredTensor, stored_tensors

BF16_BYTES = 2


@dataclass(frozen=True)
class Sizes:
    """Sizes in bytes of a quantised model and of the same model in bf16."""

    linear_bytes: int
    """Of the quantised layers with their scales."""
    linear_bf16_bytes: int
    file_bytes: int
    """Of all weight files."""
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
    """Sizes of the quantised model in `folder`. `layers`: names of quantised ones; `before`: the source's tensors."""
    layers = tuple(layers)
    names = tuple(f"{layer}." for layer in layers)
    after = stored_tensors(folder)
    # A head that was tied to the embeddings was not in the source's files.
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
    """The tensor's size in a bf16 model, whatever precision it is stored in."""
    return tensor.num_values * BF16_BYTES if tensor.type in FLOAT_TYPES else tensor.num_bytes
