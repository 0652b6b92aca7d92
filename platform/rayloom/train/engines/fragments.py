"""What a checkpoint holds of an engine: pieces of flattened parameters with their optimiser state, as safetensors.

A piece says which parameter it is of and where in it it starts. Whoever reads asks for any range and gets it put
together from whatever pieces there are, so that what one engine on N workers wrote is read by another on M.
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
        """On the CPU, and safe from the next step."""
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
        """(end − start,) fp32. Raises InputError where the checkpoint does not hold all of it."""
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
