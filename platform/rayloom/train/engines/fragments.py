"""An engine's part of a checkpoint: fragments of flattened parameters and their optimiser state, as safetensors.

A fragment names its parameter and the offset at which it starts. The reader assembles any range of a parameter from the
fragments there are, so a checkpoint written by one engine on N workers loads into another on M workers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rayloom.errors import InputError

WEIGHT = "weight"


@dataclass(frozen=True)
class Fragment:
    """A piece of one parameter: `tensors` by kind (`weight`, `exp_avg`, …), each (n,) fp32 from element `start` on."""

    parameter: str
    start: int
    tensors: dict[str, Tensor]

    def copied(self) -> Fragment:
        """A copy on the CPU, which the next step does not change."""
        return Fragment(
            self.parameter, self.start, {kind: t.detach().to("cpu", copy=True) for kind, t in self.tensors.items()}
        )


def write_fragments(file: Path, fragments: Iterable[Fragment]) -> None:
    tensors, starts = {}, {}
    for fragment in fragments:
        starts[fragment.parameter] = fragment.start
        for kind, tensor in fragment.tensors.items():
            tensors[f"{kind}:{fragment.parameter}"] = tensor.contiguous()
    save_file(tensors, file, metadata={"starts": json.dumps(starts)})


class FragmentReader:
    """Reads any range of any parameter from the files of one checkpoint."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files: list[Any] = [safe_open(file, framework="pt") for file in files]
        self._pieces: dict[str, list[tuple[int, int, int]]] = {}
        for number, file in enumerate(self._files):
            starts = json.loads(file.metadata()["starts"])
            keys = file.keys()
            for key in keys:
                start = starts[key.partition(":")[2]]
                end = start + file.get_slice(key).get_shape()[0]
                self._pieces.setdefault(key, []).append((start, end, number))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.__exit__(kind, error, trace)

    def read(self, kind: str, parameter: str, start: int, end: int) -> Tensor:
        """(end − start,) fp32. Raises InputError if the checkpoint does not hold the whole range."""
        key = f"{kind}:{parameter}"
        out = torch.empty(end - start)
        filled = 0
        for first, last, number in self._pieces.get(key, []):
            low, high = max(start, first), min(end, last)
            if low < high:
                out[low - start : high - start] = self._files[number].get_slice(key)[low - first : high - first]
                filled += high - low
        if filled != end - start:
            what = f"The checkpoint has {filled} of {end - start} values of {key}"
            raise InputError(what, fix="It belongs to another model; run the job under another name.")
        return out
