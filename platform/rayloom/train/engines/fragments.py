"""An engine's part of a checkpoint: fragments of flattened parameters and their optimiser state, as safetensors.

A fragment names its parameter and the offset at which it starts. The reader assembles any range of a parameter from the
fragments there are, so a checkpoint written by one engine on N workers loads into another on M workers. With tensor
parallelism a fragment may be a range of some columns of a matrix, which is read as any range of any columns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rayloom.errors import InputError
from rayloom.train.weights.parts import part_of

WEIGHT = "weight"
ELEMENTS_AT_ONCE = 1 << 22
"""Elements that are put into other columns in one operation, which needs some numbers for each."""


@dataclass(frozen=True)
class ColumnRange:
    """ColumnRange of a matrix with `width` of them: from `begin`, up to `end`."""

    begin: int
    end: int
    width: int

    @property
    def count(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class ElementRange:
    """Which elements of a parameter: from `start`, up to `end`, of the parameter or of some of its columns."""

    start: int
    end: int
    columns: ColumnRange | None = None

    @classmethod
    def within(cls, parameter: nn.Parameter, start: int, end: int) -> ElementRange:
        """The span, in the whole parameter, of a range of what this worker has of it."""
        part = part_of(parameter)
        if part is not None and part.dim == 0:
            before = part.begin * math.prod(part.shape[1:])
            return cls(before + start, before + end)
        return cls(start, end, None if part is None else ColumnRange(part.begin, part.end, part.shape[1]))


@dataclass(frozen=True)
class Fragment:
    """A piece of one parameter: `tensors` by kind (`weight`, `exp_avg`, …), each (n,) fp32."""

    parameter: str
    span: ElementRange
    tensors: dict[str, Tensor]

    def copied(self) -> Fragment:
        """A copy on the CPU, which the next step does not change."""
        return Fragment(
            self.parameter, self.span, {kind: t.detach().to("cpu", copy=True) for kind, t in self.tensors.items()}
        )


def write_fragments(file: Path, fragments: Iterable[Fragment]) -> None:
    tensors, starts, columns = {}, {}, {}
    for fragment in fragments:
        starts[fragment.parameter] = fragment.span.start
        if fragment.span.columns is not None:
            columns[fragment.parameter] = astuple(fragment.span.columns)
        for kind, tensor in fragment.tensors.items():
            tensors[f"{kind}:{fragment.parameter}"] = tensor.contiguous()
    save_file(tensors, file, metadata={"starts": json.dumps(starts), "columns": json.dumps(columns)})


class FragmentReader:
    """Reads any range of any parameter from the files of one checkpoint."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files: list[Any] = [safe_open(file, framework="pt") for file in files]
        self._pieces: dict[str, list[tuple[ElementRange, int]]] = {}
        for number, file in enumerate(self._files):
            starts = json.loads(file.metadata()["starts"])
            columns = json.loads(file.metadata().get("columns", "{}"))
            keys = file.keys()
            for key in keys:
                name = key.partition(":")[2]
                end = starts[name] + file.get_slice(key).get_shape()[0]
                own = ColumnRange(*columns[name]) if name in columns else None
                self._pieces.setdefault(key, []).append((ElementRange(starts[name], end, own), number))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.__exit__(kind, error, trace)

    def read(self, kind: str, parameter: str, span: ElementRange) -> Tensor:
        """(elements,) fp32. Raises InputError if the checkpoint does not hold all of them."""
        key, size = f"{kind}:{parameter}", span.end - span.start
        out = torch.empty(size)
        filled = 0
        for piece, number in self._pieces.get(key, []):
            stored = self._files[number].get_slice(key)
            if piece.columns != span.columns:
                filled += _put_into_columns(out, span, stored, piece)
                continue
            low, high = max(span.start, piece.start), min(span.end, piece.end)
            if low < high:
                out[low - span.start : high - span.start] = stored[low - piece.start : high - piece.start]
                filled += high - low
        if filled != size:
            what = f"The checkpoint has {filled} of {size} values of {key}"
            raise InputError(what, fix="It belongs to another model; run the job under another name.")
        return out

    def read_into(self, fragment: Fragment) -> None:
        """Fills a fragment's tensors."""
        for kind, tensor in fragment.tensors.items():
            tensor.copy_(self.read(kind, fragment.parameter, fragment.span))


def _put_into_columns(out: Tensor, span: ElementRange, stored: Any, piece: ElementRange) -> int:
    """Puts what a piece has of a span that is cut in other columns into `out`; returns how many elements that are."""
    width = (span.columns or piece.columns or ColumnRange(0, 1, 1)).width
    wanted, own = span.columns or ColumnRange(0, width, width), piece.columns or ColumnRange(0, width, width)
    # Rows that both reach into.
    first = max(piece.start, span.start // wanted.count * own.count)
    last = min(piece.end, -(-span.end // wanted.count) * own.count)
    filled = 0
    for begin in range(first, last, ELEMENTS_AT_ONCE):
        end = min(begin + ELEMENTS_AT_ONCE, last)
        elements = torch.arange(begin, end)
        column = own.begin + elements % own.count
        target = elements // own.count * wanted.count + column - wanted.begin - span.start
        is_wanted = (column >= wanted.begin) & (column < wanted.end) & (target >= 0) & (target < len(out))
        out[target[is_wanted]] = stored[begin - piece.start : end - piece.start][is_wanted]
        filled += int(is_wanted.sum())
    return filled
