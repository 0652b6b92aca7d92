"""What quantising saved: bytes of the layers and files, beside those of the same model in bf16."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayloom.models.weight_files import FLOAT_TYPES, StoredTensor, stored_tensors

BF16_BYTES = 2


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
