"""LoRA inside vLLM on CPUs, against vLLM's own operations, which are loaded without the rest of vLLM."""

from __future__ import annotations

import importlib.util
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rayloom.models import vllm_lora, vllm_on_cpu

TOKENS, INPUTS, OUTPUTS, RANK = 9, 6, 10, 4
RUNS = torch.tensor([0, 4, 6]), torch.tensor([4, 2, 3])


@pytest.fixture(scope="module")
def theirs() -> Any:
    installed = importlib.util.find_spec("vllm")
    assert installed is not None
    assert installed.submodule_search_locations is not None
    file = Path(installed.submodule_search_locations[0]) / "lora/ops/torch_ops/lora_ops.py"
    spec = importlib.util.spec_from_file_location("lora_ops", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def after(operations: Any, adapters: list[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
    """A layer's outputs after A and B of each token's adapter, in the columns from 2 on."""
    runs = (*RUNS, torch.tensor(adapters), len(adapters), 4, TOKENS)
    hidden, output = torch.zeros(TOKENS, RANK), drawn(TOKENS, OUTPUTS + 3).to(dtype)
    operations.sgmv_shrink(drawn(TOKENS, INPUTS).to(dtype), drawn(3, 1, RANK, INPUTS).to(dtype), hidden, *runs, 0.5)
    operations.sgmv_expand_slice(hidden, drawn(3, 1, OUTPUTS, RANK).to(dtype), output, *runs, 2, OUTPUTS, True)
    return output


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapters", [[0, 0, 0], [2, 0, 1]])
def test_several_adapters_give_what_vllm_gives(theirs: Any, adapters: list[int], dtype: torch.dtype) -> None:
    found, expected = after(vllm_lora, adapters, dtype=dtype), after(theirs, adapters, dtype=dtype)
    torch.testing.assert_close(found, expected)


def test_tokens_without_an_adapter_are_left_as_they_are(theirs: Any) -> None:
    """vLLM gives them the last slot's."""
    found, untouched = after(vllm_lora, [1, -1, 0]), drawn(TOKENS, OUTPUTS + 3)
    assert torch.equal(found[4:6], untouched[4:6])
    assert not torch.equal(after(theirs, [1, -1, 0])[4:6], untouched[4:6])
    torch.testing.assert_close(found[:4], after(theirs, [1, 1, 1])[:4])


@pytest.mark.parametrize("add_inputs", [True, False])
def test_an_embeddings_outputs_may_be_padded(theirs: Any, add_inputs: bool) -> None:
    outputs = []
    for operations in (vllm_lora, theirs):
        output = drawn(TOKENS, OUTPUTS - 2)
        runs = (*RUNS, torch.tensor([0, 1, 0]), 3, 4, TOKENS)
        operations.sgmv_expand(drawn(TOKENS, RANK), drawn(2, OUTPUTS, RANK), output, *runs, add_inputs)
        outputs.append(output)
    torch.testing.assert_close(*outputs)


class Wrapper:
    def __init__(self, adapters: list[int]) -> None:
        self.sampler_indices = torch.tensor(adapters)


def logits_after(adapters: list[int], a: Tensor) -> Tensor:
    logits = torch.zeros(TOKENS, OUTPUTS)
    vllm_lora.add_lora_logits(Wrapper(adapters), logits, drawn(TOKENS, INPUTS), a, drawn(2, 1, OUTPUTS, RANK), 0.5)
    return logits


def test_logits_change_by_each_samplers_adapter_and_by_none_without_one() -> None:
    a, b = drawn(2, 1, RANK, INPUTS), drawn(2, 1, OUTPUTS, RANK)
    found = logits_after([1, 1, -1, 0, 0, 0, -1, 1, 0], a)
    for row, adapter in ((0, 1), (3, 0), (7, 1)):
        expected = drawn(TOKENS, INPUTS)[row] @ a[adapter, 0].T @ b[adapter, 0].T * 0.5
        torch.testing.assert_close(found[row], expected)
    assert not found[[2, 6]].any()


def test_logits_of_a_prompt_are_no_matter_of_the_samplers() -> None:
    """vLLM computes them request by request, while the indices are those of all requests of the step."""
    a = drawn(2, 1, RANK, INPUTS)
    assert not logits_after([0, -1], torch.zeros_like(a)).any()
    torch.testing.assert_close(logits_after([1, 1], a), logits_after([1] * TOKENS, a))
    with pytest.raises(ValueError, match="output layer"):
        logits_after([0, -1], a)


def test_vllm_finds_it_in_each_of_its_processes() -> None:
    (plugin,) = entry_points(group="vllm.general_plugins", name="rayloom_cpu")
    assert plugin.load() is vllm_on_cpu.register
