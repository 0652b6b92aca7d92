"""Models whose weights each worker fills in part: together bit by bit the model that is built whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import write_model
from support.training_jobs import small_spec, write_mixture, write_tokenizer
from torch import nn

from rayloom.score.parallel.axis import ALONE, Axis
from rayloom.train.weights import sharded
from rayloom.train.weights.layout import make_parts
from rayloom.train.weights.model import build_model, sharded_model
from rayloom.train.weights.parts import part_of
from rayloom.train.weights.sharded import Shards

LORA = {"type": "lora", "rank": 4}


def spec_for(base: Path | None, **changes: Any) -> Any:
    given = {"architecture": None, "base": str(base)} if base else {}
    return small_spec(**(given | {"sharding": {"zero_stage": 3}} | changes))


def joined(spec: Any, base: Path | None, tokenizer: Path, num_workers: int) -> tuple[dict[str, Any], list[nn.Module]]:
    """The flat parameters by name, put together from the parts of all workers; and the workers' models."""
    parts: list[dict[nn.Parameter, torch.Tensor]] = []
    models = []
    for rank in range(num_workers):
        kept: dict[nn.Parameter, torch.Tensor] = {}
        model, weights = sharded_model(spec, base, tokenizer)
        assert model is not None
        assert weights is not None

        def own(parameter: nn.Parameter, rank: int = rank) -> tuple[int, int]:
            size = parameter.numel()
            return size * rank // num_workers, size * (rank + 1) // num_workers

        def keep(parameter: nn.Parameter, kept: Any = kept, own: Any = own) -> None:
            start, end = own(parameter)
            kept[parameter] = parameter.detach().view(-1)[start:end].clone()
            parameter.data = torch.empty(0)

        weights.fill(model, Shards(torch.device("cpu"), torch.float32, own, keep))
        models.append(model)
        parts.append(kept)
    names = [dict(model.named_parameters()) for model in models]
    whole = {name: torch.cat([parts[i][names[i][name]] for i in range(num_workers)]) for name in names[0]}
    return whole, models


def check_equal(spec: Any, base: Path | None, tokenizer: Path, num_workers: int) -> None:
    built = build_model(spec, base, tokenizer)
    whole, models = joined(spec, base, tokenizer, num_workers)
    expected = {name: parameter.detach().float().view(-1) for name, parameter in built.named_parameters()}
    assert list(whole) == list(expected)
    for name, values in expected.items():
        assert torch.equal(whole[name], values), name
    for model in models:
        for ours, theirs in zip(model.buffers(), built.buffers(), strict=True):
            assert torch.equal(ours, theirs)
        assert model.generation_config.to_dict() == built.generation_config.to_dict()  # type: ignore[operator, union-attr]
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert trained == [name for name, parameter in built.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("adapter", [{"type": "none"}, LORA], ids=["all", "lora"])
def test_a_base_from_its_files(tmp_path: Path, num_workers: int, is_tied: bool, adapter: dict[str, Any]) -> None:
    write_model(tmp_path, tie_word_embeddings=is_tied)
    check_equal(spec_for(tmp_path, adapter=adapter), tmp_path, tmp_path, num_workers)


@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize("is_tied", [True, False])
def test_fresh_weights(tmp_path: Path, num_workers: int, is_tied: bool) -> None:
    shape = {
        "type": "decoder", "num_layers": 2, "hidden_size": 16, "num_heads": 2, "max_positions": 32,
        "tied_embeddings": is_tied,
    }  # fmt: skip
    check_equal(spec_for(None, architecture=shape, seed=3), None, write_tokenizer(tmp_path), num_workers)


@pytest.mark.parametrize("adapter", [{"type": "none"}, LORA], ids=["all", "lora"])
def test_parts_of_matrices_are_those_of_the_model_that_is_built_whole(tmp_path: Path, adapter: dict[str, Any]) -> None:
    write_model(tmp_path)
    layout = {"sharding": {"tensor": 2}, "workers": {"num_workers": 2}}
    spec = spec_for(tmp_path, adapter=adapter, **layout)
    built = build_model(spec, tmp_path, tmp_path)
    expected = {name: parameter.detach().float() for name, parameter in built.named_parameters()}
    for rank in range(2):
        model, weights = sharded_model(spec, tmp_path, tmp_path)
        assert model is not None
        make_parts(model, weights, Axis(rank, 2), torch.device("cpu"), torch.float32)
        for name, parameter in model.named_parameters():
            part = part_of(parameter)
            assert torch.equal(parameter, expected[name] if part is None else part.of(expected[name])), name
        held = sum(parameter.numel() for name, parameter in model.named_parameters() if ".lora_" not in name)
        assert held < 0.51 * sum(whole.numel() for name, whole in expected.items() if ".lora_" not in name)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_experts_are_read_from_the_files_of_each(tmp_path: Path, model_type: str) -> None:
    write_mixture(tmp_path, model_type)
    check_equal(spec_for(tmp_path), tmp_path, tmp_path, 3)
    spec = spec_for(tmp_path, sharding={"expert": 2}, workers={"num_workers": 2})
    expected = dict(build_model(spec, tmp_path, tmp_path).named_parameters())
    for rank in range(2):
        model, weights = sharded_model(spec, tmp_path, tmp_path)
        assert model is not None
        make_parts(model, weights, ALONE, torch.device("cpu"), torch.float32, Axis(rank, 2))
        for name, parameter in model.named_parameters():
            part = part_of(parameter)
            assert (part is not None) == (".experts." in name)
            assert torch.equal(parameter, expected[name] if part is None else part.of(expected[name])), name


def test_only_the_rows_of_a_part_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path)
    read: list[int] = []
    own = sharded.read_part

    class Counting:
        def __init__(self, stored: Any) -> None:
            self.stored, self.get_shape = stored, stored.get_shape

        def __getitem__(self, rows: slice) -> torch.Tensor:
            found: torch.Tensor = self.stored[rows]
            read.append(found.numel())
            return found

    monkeypatch.setattr(sharded, "read_part", lambda stored, start, end: own(Counting(stored), start, end))
    spec = spec_for(tmp_path)
    size = sum(parameter.numel() for parameter in build_model(spec, tmp_path, tmp_path).parameters())
    joined(spec, tmp_path, tmp_path, 3)
    assert size <= sum(read) < 1.05 * size  # a row that two workers share is read twice


def test_no_worker_holds_more_than_its_share_and_one_parameter(tmp_path: Path) -> None:
    write_model(tmp_path)
    model, weights = sharded_model(spec_for(tmp_path), tmp_path, tmp_path)
    assert model is not None
    assert weights is not None
    whole: list[int] = []

    def keep(parameter: nn.Parameter) -> None:
        whole.append(sum(p.numel() for p in model.parameters() if p.device.type == "cpu"))
        parameter.data = torch.empty(0)

    weights.fill(model, Shards(torch.device("cpu"), torch.float32, lambda p: (0, p.numel() // 2), keep))
    assert max(whole) == model.config.vocab_size * model.config.hidden_size  # type: ignore[operator, union-attr]
    assert all(parameter.numel() == 0 for parameter in model.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": {"type": "ia3"}},
        {"adapter": {"type": "lora", "weight_decomposed": True}},
    ],
    ids=["ia3", "dora"],
)
def test_what_can_only_be_built_whole(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_model(tmp_path)
    assert sharded_model(spec_for(tmp_path, **changes), tmp_path, tmp_path) == (None, None)


def test_a_base_that_gets_another_tokenizer_is_built_whole(tmp_path: Path) -> None:
    write_model(tmp_path / "base")
    tokenizer = write_tokenizer(tmp_path / "other")
    assert sharded_model(spec_for(tmp_path / "base"), tmp_path / "base", tokenizer) == (None, None)
