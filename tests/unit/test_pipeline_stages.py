"""Stages of a pipeline against whole models: loss, gradients, and what each of them reads and holds."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import write_model
from support.training_jobs import small_spec, write_tokenizer
from test_tensor_parallel import assert_alike, batch, config_of, gradients, model_of
from torch import Tensor, nn
from transformers import AutoConfig

from rayloom.errors import InputError
from rayloom.score.label_loss import LabelLoss
from rayloom.score.parallel.axis import Axis
from rayloom.specs.training.optimization import ActivationCheckpointing
from rayloom.train.sizes.stages import layers_of_stages
from rayloom.train.weights import sharded
from rayloom.train.weights.layers import recompute
from rayloom.train.weights.layout import make_parts
from rayloom.train.weights.model import build_model, sharded_model
from rayloom.train.weights.stages import PROVEN, LayerStage, check_stages, is_copy, keep_stage, tied_stage

CPU = torch.device("cpu")


def stages_of(model: nn.Module, size: int) -> list[LayerStage]:
    stages = []
    for rank in range(size):
        own = copy.deepcopy(model)
        keep_stage(own, Axis(rank, size))
        stages.append(LayerStage(LabelLoss(own), Axis(rank, size)))
    return stages


def through(stages: Sequence[LayerStage]) -> tuple[float, dict[str, Tensor]]:
    """The loss and all gradients, each stage from what the one before handed on; of tied matrices the sum."""
    received: list[Tensor] = []
    handed_on: list[Tensor] = []
    for stage in stages:
        handed_on.append(stage(batch(), *received))
        received = [handed_on[-1].detach().requires_grad_()] if handed_on[-1].dim() else []
        stage.given = received  # type: ignore[assignment]
    gradient: Tensor | None = None
    for number in reversed(range(len(stages))):
        handed_on[number].backward(gradient)
        gradient = stages[number - 1].given[0].grad if number else None  # type: ignore[index, union-attr]
    found: dict[str, Tensor] = {}
    for stage in stages:
        for name, parameter in stage.loss.model.named_parameters():
            if parameter.grad is not None:
                found[name] = found[name] + parameter.grad if name in found else parameter.grad
    return float(handed_on[-1].detach()), found


@pytest.mark.parametrize("changed", [{}, {"tie_word_embeddings": True}], ids=["untied", "tied"])
@pytest.mark.parametrize("has_lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("model_type", PROVEN)
def test_stages_give_the_loss_and_the_gradients_of_the_whole_model(
    model_type: str, has_lora: bool, changed: dict[str, Any]
) -> None:
    model = model_of(config_of(model_type, num_hidden_layers=4, **changed), has_lora)
    loss, expected = gradients(copy.deepcopy(model))
    own_loss, found = through(stages_of(model, 3))
    assert own_loss == pytest.approx(loss, rel=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_alike(name, found[name], gradient)


def test_layers_that_are_computed_again_and_a_window_in_some_of_them() -> None:
    config = config_of("qwen2", num_hidden_layers=4, use_sliding_window=True, sliding_window=3, max_window_layers=2)
    assert set(config.layer_types) == {"full_attention", "sliding_attention"}
    model = model_of(config)
    loss, expected = gradients(copy.deepcopy(model))
    recompute(model, ActivationCheckpointing())
    own_loss, found = through(stages_of(model, 2))
    assert own_loss == pytest.approx(loss, rel=1e-6)
    for name, gradient in expected.items():
        assert_alike(name, found[name], gradient)


def test_added_rows_and_positions_change_neither_loss_nor_gradients() -> None:
    model = model_of(config_of("llama"))
    loss, expected = gradients(copy.deepcopy(model))
    larger = batch().padded(3, 23)
    assert (larger.tokens.shape, larger.num_labels) == ((3, 23), batch().num_labels)
    own = LabelLoss(model)(larger)
    own.backward()
    assert float(own.detach()) == pytest.approx(loss, rel=1e-6)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert_alike(name, parameter.grad, expected[name])


def test_each_parameter_is_in_one_stage_and_a_tied_matrix_in_the_first_and_the_last() -> None:
    stages = stages_of(model_of(config_of("llama", num_hidden_layers=4, tie_word_embeddings=True)), 3)
    names = [dict(stage.loss.model.named_parameters()) for stage in stages]
    table = "model.embed_tokens.weight"
    assert [table in own for own in names] == [True, False, True]
    assert [tied_stage(names[0][table]), is_copy(names[0][table])] == [2, False]
    assert [tied_stage(names[2][table]), is_copy(names[2][table])] == [0, True]
    others = [name for own in names for name in own if name != table]
    assert len(others) == len(set(others))


@pytest.mark.parametrize(
    ("num_layers", "head", "num_stages", "lengths"),
    [
        (80, 1.2, 4, [20, 21, 20, 19]),
        (30, 8.0, 2, [19, 11]),
        (4, 0.0, 4, [1, 1, 1, 1]),
        (3, 50.0, 3, [1, 1, 1]),
        (5, 50.0, 2, [4, 1]),
    ],
)
def test_layers_are_spread_so_that_all_stages_compute_equally_much(
    num_layers: int, head: float, num_stages: int, lengths: list[int]
) -> None:
    stages = layers_of_stages(num_layers, head, num_stages)
    assert [number for stage in stages for number in stage] == list(range(num_layers))
    assert [len(stage) for stage in stages] == lengths


def filled(spec: Any, base: Path | None, tokenizer: Path, stage: int, tensor: int = 0) -> nn.Module:
    """The model of one worker, filled from files or drawn."""
    parts = spec.sharding.tensor
    model, weights = sharded_model(spec, base, tokenizer)
    assert model is not None
    make_parts(model, weights, Axis(tensor, parts), CPU, torch.float32, pipeline=Axis(stage, 2))
    return model


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("start", ["base", "lora", "fresh"])
def test_a_stage_has_the_weights_of_the_model_that_is_built_whole(
    tmp_path: Path, start: str, is_tied: bool, tensor: int
) -> None:
    layout = {"sharding": {"pipeline": 2, "tensor": tensor}, "workers": {"num_workers": 2 * tensor}}
    base = None if start == "fresh" else tmp_path / "base"
    if base is not None:
        write_model(base, tie_word_embeddings=is_tied)
        given: dict[str, Any] = {"architecture": None, "base": str(base)}
        given |= {"adapter": {"type": "lora", "rank": 4}} if start == "lora" else {}
    else:
        shape = {"num_layers": 2, "hidden_size": 16, "num_heads": 2, "max_positions": 32}
        given = {"architecture": {"type": "decoder", "tied_embeddings": is_tied, **shape}, "seed": 3}
    tokenizer = base or write_tokenizer(tmp_path)
    spec = small_spec(**given, **layout)
    built = dict(build_model(spec, base, tokenizer).named_parameters())
    seen: set[str] = set()
    for stage in range(2):
        for part in range(tensor):
            model = filled(spec, base, tokenizer, stage, part)
            assert all(value.device == CPU for value in [*model.parameters(), *model.buffers()])
            for name, parameter in model.named_parameters():
                cut = getattr(parameter, "part", None)
                whole = built[name].detach().float()
                assert torch.equal(parameter, whole if cut is None else cut.of(whole)), name
                seen.add(name)
    assert seen == set(built)


def test_only_the_tensors_of_a_stage_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path)
    read: list[int] = []
    own = sharded.read_part

    def counting(stored: Any, start: int, end: int) -> Tensor:
        read.append(end - start)
        return own(stored, start, end)

    monkeypatch.setattr(sharded, "read_part", counting)
    layout = {"sharding": {"pipeline": 2}, "workers": {"num_workers": 2}}
    spec = small_spec(architecture=None, base=str(tmp_path), **layout)
    for stage in range(2):
        read.clear()
        model = filled(spec, tmp_path, tmp_path, stage)
        assert sum(read) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("config", "num_stages", "said"),
    [
        (config_of("llama"), 3, "base has 2 layers.*sharding.pipeline: 2"),
        (AutoConfig.for_model("gpt2"), 2, "type gpt2 is not cut into stages.*llama"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_what_can(config: Any, num_stages: int, said: str) -> None:
    with pytest.raises(InputError) as refused:
        check_stages(config, num_stages)
    assert re.search(said, str(refused.value).replace("\n", " "))
