"""Reads, copies and writes safetensors files one tensor at a time, so that the whole model is never in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COPIED_BYTES = 1 << 24
SHARD_BYTES = 5 << 30
"""Most bytes of one file, unless a single tensor is larger."""
_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class WeightShardWriter:
    """Writes safetensors files with their index, or one file if all tensors fit into it.

    Each tensor is written to a temporary file as soon as it is added. The format's header holds the offsets of all
    tensors, so each file is assembled from the temporary file once it is full.
    """

    def __init__(self, directory: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._directory, self._shard_bytes = directory, shard_bytes
        self._written = directory / ".tensors"
        self._entries: dict[str, tuple[Tensor, int]] = {}
        """For each tensor of the present file: a meta tensor (shape, type), and the offset of its bytes."""
        self._size = 0
        self._shards: list[list[str]] = []
        self._total_bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        if self._entries and self._size + tensor.nbytes > self._shard_bytes:
            self._finish_shard()
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        with self._written.open("ab") as file:
            file.write(content.data)
        self._entries[name] = (torch.empty_like(tensor, device="meta"), self._size)
        self._size += tensor.nbytes
        self._total_bytes += tensor.nbytes

    def close(self) -> None:
        self._finish_shard()
        count = len(self._shards)
        if count == 1:
            self._part(0).rename(self._directory / "model.safetensors")
            return
        names = [f"model-{number + 1:05d}-of-{count:05d}.safetensors" for number in range(count)]
        for number, name in enumerate(names):
            self._part(number).rename(self._directory / name)
        files = {tensor: name for name, shard in zip(names, self._shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": self._total_bytes}, "weight_map": dict(sorted(files.items()))}
        (self._directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")

    def _part(self, number: int) -> Path:
        return self._directory / f"part-{number}.safetensors"

    def _finish_shard(self) -> None:
        """Assembles one file, tensors of larger types first, so that each is aligned to its type's size."""
        order = sorted(self._entries, key=lambda name: (-self._entries[name][0].element_size(), name))
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in order:
            tensor = self._entries[name][0]
            begin, end = end, end + tensor.nbytes
            header[name] = {
                "dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end],
            }  # fmt: skip
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with self._part(len(self._shards)).open("wb") as target, self._written.open("rb") as written:
            target.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                tensor, begin = self._entries[name]
                _copy(written, begin, tensor.nbytes, target)
        self._written.unlink()
        self._shards.append(order)
        self._entries, self._size = {}, 0


def _copy(source: BinaryIO, begin: int, num_bytes: int, target: BinaryIO) -> None:
    source.seek(begin)
    while num_bytes:
        num_bytes -= target.write(source.read(min(num_bytes, COPIED_BYTES)))


def copy_tensors(
    source: Path, writer: WeightShardWriter, without: Collection[str], dtype_of: Callable[[str], torch.dtype]
) -> None:
    """Adds a folder's tensors one at a time, except those in `without`; casts floating-point ones to `dtype_of`."""
    for name, tensor in tensors_of(source):
        if name not in without:
            writer.add(name, tensor.to(dtype_of(name)) if tensor.is_floating_point() else tensor)


def write_configuration(model: PreTrainedModel, dtype: torch.dtype, directory: Path) -> None:
    """Writes `config.json` with this type of weights, and the generation defaults."""
    model.config.dtype, model.config.architectures = dtype, [type(model).__name__]
    model.config.save_pretrained(directory)
    if model.can_generate():
        model.generation_config.save_pretrained(directory)


def tied_head(model: PreTrainedModel) -> set[str]:
    """The name of the output head's weight if it is tied to the embeddings, and so need not be written; else empty."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or getattr(head, "weight", None) is not embeddings.weight:
        return set()
    return {f"{name}.weight" for name, module in model.named_modules() if module is head}


def tensors_of(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of each entry in a folder's safetensors files, read one at a time."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a dictionary)
                yield name, opened.get_tensor(name)
