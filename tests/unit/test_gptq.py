"""GPTQ against rounding to nearest, on layers whose inputs hang together as real ones do."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rayloom.export.schemes.gptq import GroupedWeight, gptq, peak_bytes, round_to_nearest

OUTPUTS, INPUTS, POSITIONS, GROUP = 48, 160, 512, 32


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    """(T, I) activations in which some inputs are large and all are correlated."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(INPUTS, INPUTS, generator=generator) * torch.logspace(0, -2, INPUTS)[:, None]
    return torch.randn(POSITIONS, INPUTS, generator=generator) @ mixed


@pytest.fixture(scope="module")
def weight() -> Tensor:
    return torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(1)) * 0.05


def output_error(rounded: GroupedWeight, weight: Tensor, inputs: Tensor) -> float:
    """Of the layer's output, as a share of its size."""
    wrong = inputs @ (rounded.restored() - weight).T
    return float(wrong.square().sum() / (inputs @ weight.T).square().sum())


def test_gptq_loses_less_of_the_output_than_rounding_to_nearest(weight: Tensor, inputs: Tensor) -> None:
    products = inputs.T @ inputs
    ours = output_error(gptq(weight, products, GROUP, torch.bfloat16), weight, inputs)
    nearest = output_error(round_to_nearest(weight, GROUP, torch.bfloat16), weight, inputs)
    assert ours < 0.5 * nearest


def test_blocks_give_the_same_as_one_block(weight: Tensor, inputs: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    products = inputs.T @ inputs
    blocked = gptq(weight, products, GROUP, torch.float32)
    monkeypatch.setattr("rayloom.export.schemes.gptq.BLOCK_INPUTS", INPUTS)
    whole = gptq(weight, products, GROUP, torch.float32)
    assert (blocked.values != whole.values).float().mean() < 0.01  # ties broken by the last bit of a sum
    assert torch.equal(blocked.scales, whole.scales)


def test_values_fit_four_bits_and_scales_the_model(weight: Tensor, inputs: Tensor) -> None:
    for rounded in (
        gptq(weight, inputs.T @ inputs, GROUP, torch.bfloat16),
        round_to_nearest(weight, GROUP, torch.bfloat16),
    ):
        assert rounded.values.dtype == torch.int8
        assert int(rounded.values.min()) >= -8 and int(rounded.values.max()) <= 7
        assert rounded.scales.dtype == torch.bfloat16 and rounded.scales.shape == (OUTPUTS, INPUTS // GROUP)
        assert rounded.group_size == GROUP


def test_independent_inputs_leave_nothing_to_make_up_for(weight: Tensor) -> None:
    ours = gptq(weight, torch.eye(INPUTS), GROUP, torch.bfloat16)
    nearest = round_to_nearest(weight, GROUP, torch.bfloat16)
    assert torch.equal(ours.values, nearest.values)


def test_nothing_but_zeros_is_rounded_to_zeros(inputs: Tensor) -> None:
    rounded = gptq(torch.zeros(4, INPUTS), inputs.T @ inputs, GROUP, torch.bfloat16)
    assert (rounded.restored() == 0).all()


def test_inputs_that_are_never_active_do_no_harm(weight: Tensor, inputs: Tensor) -> None:
    silent = inputs.clone()
    silent[:, ::5] = 0
    rounded = gptq(weight, silent.T @ silent, GROUP, torch.bfloat16)
    assert torch.isfinite(rounded.restored()).all()
    assert output_error(rounded, weight, silent) < output_error(
        round_to_nearest(weight, GROUP, torch.bfloat16), weight, silent
    )


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that are made in the block and still there, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and (key := tensor.untyped_storage()._cdata) not in self._sizes:
                self._sizes[key] = tensor.untyped_storage().nbytes()
                self.now += self._sizes[key]
                self.peak = max(self.peak, self.now)
                weakref.finalize(tensor.untyped_storage(), self._free, key)
        return made

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


@pytest.mark.parametrize(("outputs", "num_inputs"), [(512, 256), (256, 512), (384, 384)])
def test_the_peak_is_stated(outputs: int, num_inputs: int) -> None:
    read = torch.randn(1024, num_inputs, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(outputs, num_inputs, generator=torch.Generator().manual_seed(1))
    products = read.T @ read
    with Alive() as alive:
        gptq(weight, products, 64, torch.bfloat16)
    assert 0.85 * peak_bytes(outputs, num_inputs) < alive.peak <= peak_bytes(outputs, num_inputs)
