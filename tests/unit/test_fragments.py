"""Checkpoints of parts: whoever wrote them, any other layout reads the same values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rayloom.errors import InputError
from rayloom.score.parallel.axis import Axis
from rayloom.train.engines.fragments import WEIGHT, ElementRange, Fragment, FragmentReader, write_fragments
from rayloom.train.weights.tensor_parallel import COLUMNS, ROWS, part_in

Layout = tuple[tuple[str | None, int], int]
"""How the matrix is cut, into how many parts, and how many copies there are of each."""
WHOLE = torch.arange(6 * 12, dtype=torch.float32).view(6, 12)


def held(style: str | None, parts: int, copies: int) -> Iterator[tuple[nn.Parameter, ElementRange, Tensor]]:
    """What each of the workers holds of the matrix: one range of its part, as ZeRO cuts it."""
    for tensor in range(parts):
        parameter = nn.Parameter(WHOLE.clone())
        part = part_in(parameter, style, Axis(tensor, parts))
        if part is not None:
            parameter = nn.Parameter(part.of(WHOLE).clone())
            parameter.part = part  # type: ignore[attr-defined]
        for copy in range(copies):
            start, end = Axis(copy, copies).share(parameter.numel())
            yield parameter, ElementRange.within(parameter, start, end), parameter.detach().reshape(-1)[start:end]


LAYOUTS = st.tuples(
    st.sampled_from([(None, 1), (ROWS, 2), (ROWS, 3), (COLUMNS, 2), (COLUMNS, 3), (COLUMNS, 4)]), st.integers(1, 5)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fragments")


@given(written=LAYOUTS, read=LAYOUTS)
@settings(deadline=None, max_examples=60)
def test_any_layout_reads_what_any_other_wrote(folder: Path, written: Layout, read: Layout) -> None:
    files = []
    for number, (_, span, values) in enumerate(held(*written[0], written[1])):
        files.append(folder / f"{number}.safetensors")
        write_fragments(files[-1], [Fragment("w", span, {WEIGHT: values})])
    with FragmentReader(files) as reader:
        for _, span, values in held(*read[0], read[1]):
            assert torch.equal(reader.read(WEIGHT, "w", span), values)


def test_a_missing_column_is_an_error_and_not_made_up(tmp_path: Path) -> None:
    (_, first, values), _ = held(COLUMNS, 2, 1)
    write_fragments(tmp_path / "one.safetensors", [Fragment("w", first, {WEIGHT: values})])
    with FragmentReader([tmp_path / "one.safetensors"]) as reader, pytest.raises(InputError, match="36 of 72"):
        reader.read(WEIGHT, "w", ElementRange(0, 72))
