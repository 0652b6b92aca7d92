"""Gradients summed bucket by bucket: the same sums, begun before the backward pass ends, once a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rayloom.train.engines import reduction
from rayloom.train.engines.reduction import GradientSums, Place

SIDE, LAYERS = 8, 6


class Network:
    """Two workers with the same gradients: a sum doubles them. Notes what is sent, and after how many gradients."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, torch.dtype]] = []
        self.num_ready = 0

    def sum(self, tensor: Tensor) -> Any:
        self.sent.append((self.num_ready, tensor.dtype))

        class Work:
            def wait(self) -> None:
                tensor.mul_(2)

        return Work()


def prepared(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype = torch.float32
) -> tuple[nn.Sequential, Tensor, GradientSums, Network]:
    """A stack of layers whose gradients are views into one tensor, in buckets of a layer each."""
    monkeypatch.setattr(reduction, "BUCKET_ELEMENTS", SIDE * SIDE)
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(SIDE, SIDE, bias=False) for _ in range(LAYERS)))
    flat = torch.zeros(LAYERS * SIDE * SIDE)
    network = Network()
    places = []
    for number, parameter in enumerate(model.parameters()):
        start = number * SIDE * SIDE
        parameter.grad = flat[start : start + SIDE * SIDE].view(SIDE, SIDE)
        places.append(Place(parameter, start))

        def count(_: Tensor) -> None:
            network.num_ready += 1

        parameter.register_post_accumulate_grad_hook(count)
    return model, flat, GradientSums(flat, places, network.sum, dtype), network


def backward(model: nn.Module) -> None:
    model(torch.ones(3, SIDE)).square().sum().backward()


def test_sums_are_those_of_the_whole_tensor_and_begin_with_the_last_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, flat, sums, network = prepared(monkeypatch)
    backward(model)
    alone = flat.clone()
    assert network.sent == []  # not the last backward pass of the step
    network.num_ready = 0
    sums.begin()
    backward(model)
    assert [ready for ready, _ in network.sent] == [1, 2, 3, 4, 5, 6]
    sums.finish()
    assert torch.allclose(flat, 4 * alone)
    assert len(network.sent) == LAYERS


def test_parameters_without_gradient_are_summed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model, flat, sums, network = prepared(monkeypatch)
    sums.begin()
    backward(model[:3])  # the later layers are not used
    assert network.sent == []  # all workers send in one order, in which these come last
    sums.finish()
    assert len(network.sent) == LAYERS
    assert flat[3 * SIDE * SIDE :].abs().sum() == 0
    sums.begin()
    backward(model)
    sums.finish()
    assert len(network.sent) == 2 * LAYERS


def test_half_the_bytes_are_sent_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    model, flat, sums, network = prepared(monkeypatch, torch.bfloat16)
    sums.begin()
    backward(model)
    alone = flat.clone()
    sums.finish()
    assert {dtype for _, dtype in network.sent} == {torch.bfloat16}
    assert flat.dtype == torch.float32
    assert torch.allclose(flat, 2 * alone, rtol=2**-7)
    assert not torch.equal(flat, 2 * alone)


def test_small_parameters_share_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduction, "BUCKET_ELEMENTS", 10**6)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    flat, network, places, start = torch.zeros(40), Network(), [], 0
    for parameter in model.parameters():
        parameter.grad = flat[start : start + parameter.numel()].view(parameter.shape)
        places.append(Place(parameter, start))
        start += parameter.numel()
    sums = GradientSums(flat, places, network.sum, torch.float32)
    sums.begin()
    model(torch.ones(1, 4)).sum().backward()
    sums.finish()
    assert len(network.sent) == 1
