"""Layouts of a training job: what is refused, what a worker holds and sends, and which is proposed for a fleet."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.training_jobs import small_spec
from transformers import AutoConfig, AutoModelForCausalLM

from rayloom.errors import InputError
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.score.parallel.axis import ALONE, Axis
from rayloom.specs.training.hardware import fleet_of
from rayloom.train.planning.fleet import add_fleet, advice, fits, problems
from rayloom.train.planning.layouts import fastest, layout_of
from rayloom.train.process_group import Group, arranged
from rayloom.train.sizes.estimates import memory_per_device
from rayloom.train.sizes.model_size import ModelSize, size_of_architecture, size_of_model
from rayloom.train.sizes.stages import stages_of
from rayloom.train.sizes.traffic import traffic
from rayloom.train.weights.architectures import config_of, model_of
from rayloom.train.weights.layout import make_parts
from rayloom.train.weights.stages import keep_stage

SHAPE = {
    "type": "decoder", "num_layers": 2, "hidden_size": 16, "num_heads": 4, "num_key_value_heads": 2,
    "feed_forward_size": 32, "max_positions": 32,
}  # fmt: skip
GPT2 = {"type": "decoder", "family": "gpt2", "num_layers": 2, "hidden_size": 16, "num_heads": 4, "max_positions": 32}
ENCODER = {"type": "encoder", "num_layers": 2, "hidden_size": 16, "num_heads": 4}
LLAMA_70B = {
    "type": "decoder", "num_layers": 80, "hidden_size": 8192, "num_heads": 64, "num_key_value_heads": 8,
    "feed_forward_size": 28672, "max_positions": 131072, "tied_embeddings": False,
}  # fmt: skip
MIXTURE: dict[str, Any] = {"architecture": None, "base": "./mixture"}
QWEN3_30B_A3B = {
    "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
    "vocab_size": 151936,
}  # fmt: skip
ON_8_H200: dict[str, Any] = MIXTURE | {
    "sequence_length_tokens": 4096,
    "micro_batch_sequences": 2,
    "global_batch_tokens": 64 * 4096,
    "precision": "bf16",
    "workers": {"num_workers": 8, "gpus_per_worker": 1},
    "hardware": "8xH200-141GB",
}
LARGE: dict[str, Any] = {
    "architecture": LLAMA_70B,
    "sequence_length_tokens": 4096,
    "micro_batch_sequences": 1,
    "global_batch_tokens": 64 * 4096,
    "precision": "bf16",
    "workers": {"num_workers": 32, "gpus_per_worker": 1},
    "hardware": "4x8xH100-80GB",
}


@pytest.fixture(scope="module")
def size() -> ModelSize:
    return size_of_architecture(small_spec(**LARGE).architecture, 128256)


@pytest.fixture(scope="module")
def mixture() -> Any:
    """Qwen3-30B-A3B on the meta device."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **QWEN3_30B_A3B))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sharding": {"tensor": 2}, "workers": {"num_workers": 3}}, "does not divide workers.num_workers 3.*2 or 4"),
        (
            {"sharding": {"tensor": 2, "context": 2}, "workers": {"num_workers": 2}},
            "tensor 2 and context 2.*set it to 4",
        ),
        ({"sharding": {"tensor": 4}, "workers": {"num_workers": 4}}, "num_key_value_heads 2.*below it that does is 2"),
        ({"sharding": {"context": 3}, "workers": {"num_workers": 3}}, "must divide num_heads 4 together: 1 "),
        ({"sharding": {"tensor": 2}, "workers": {"num_workers": 4, "min_workers": 2}}, "min_workers.*leave it out"),
        ({"sharding": {"tensor": 2}, "compile": True}, "compile is not proven"),
        ({"sharding": {"tensor": 2}, "optimizer": {"type": "muon"}}, "muon needs whole matrices.*use adamw"),
        ({"sharding": {"tensor": 2}, "architecture": GPT2}, "family llama"),
        (
            {"sharding": {"context": 2}, "architecture": {"type": "encoder", "hidden_size": 16}},
            "not for objective masked",
        ),
        ({"sharding": {"expert": 2}}, "architecture makes none"),
        ({"sharding": {"expert": 3}, **MIXTURE}, "expert 3 does not divide workers.num_workers 2: set it to 3"),
        ({"sharding": {"expert": 2, "zero_stage": 3}, **MIXTURE}, "zero_stage 3: use 0 or 2"),
        (
            {"sharding": {"expert": 3, "tensor": 2}, **MIXTURE, "workers": {"num_workers": 6}},
            "tensor 2 and expert 3.*a multiple of tensor.*: 4",
        ),
        ({"sharding": {"expert": 2}, "optimizer": {"type": "muon"}, **MIXTURE}, "use adamw"),
        (
            {"sharding": {"expert": 2}, "adapter": {"type": "lora", "quantised_base": "nf4"}, **MIXTURE},
            "quantised base",
        ),
        ({"sharding": {"extra": {"tensor_parallel": {}}, "zero_stage": 1}}, "not covered here.*use pipeline, tensor"),
        ({"sharding": {"pipeline": 2, "zero_stage": 1}}, "pipeline is for zero_stage 0.*tensor cuts"),
        ({"sharding": {"pipeline": 2, "context": 2}, "workers": {"num_workers": 4}}, "not proven with context"),
        ({"sharding": {"pipeline": 2}, "workers": {"num_workers": 3}}, "does not divide.*set it to 2 or 4"),
        ({"sharding": {"pipeline": 3}, "workers": {"num_workers": 3}}, "needs as many layers, and num_layers is 2"),
        (
            {"sharding": {"pipeline": 2}, "global_batch_tokens": 2 * 16},
            "pipeline 2 needs as many micro-batches.*makes 1: set it to 64",
        ),
        ({"sharding": {"pipeline": 2}, "optimizer": {"type": "muon"}}, "muon is not proven.*use adamw"),
        ({"sharding": {"pipeline": 2}, "architecture": GPT2}, "pipeline cuts no gpt2: use family llama"),
    ],
)
def test_what_is_not_proven_is_refused_with_what_works(changes: dict[str, Any], said: str) -> None:
    given = {"architecture": SHAPE, "global_batch_tokens": 12 * 16, "workers": {"num_workers": 2}} | changes
    with pytest.raises(ValidationError, match=said):
        small_spec(**given)


@pytest.mark.parametrize("axis", ["pipeline", "tensor"])
def test_lora_is_cut_but_not_with_a_quantised_base(axis: str) -> None:
    given = {"architecture": None, "base": "./base", "sharding": {axis: 2}, "workers": {"num_workers": 2}}
    assert small_spec(**given, adapter={"type": "lora"}).num_copies == 1
    with pytest.raises(ValidationError, match="neither DoRA nor a quantised base"):
        small_spec(**given, adapter={"type": "lora", "quantised_base": "nf4"})


def test_too_few_workers_for_the_layout_are_refused_before_anything_is_sent() -> None:
    sharding = small_spec(architecture=SHAPE, sharding={"tensor": 2}, workers={"num_workers": 2}).sharding
    with pytest.raises(InputError, match="multiple of 2"), arranged(Group(0, 1, torch.device("cpu")), sharding):
        pass


def test_a_batch_is_divided_by_the_workers_that_compute_other_rows() -> None:
    layout = {"sharding": {"tensor": 2, "context": 2}, "workers": {"num_workers": 8}}
    spec = small_spec(architecture=SHAPE, global_batch_tokens=8 * 16, **layout)
    assert (spec.num_copies, spec.accumulation_steps) == (2, 2)
    group = [Group(rank, 8, torch.device("cpu"), None, Axis(rank % 2, 2), Axis(rank // 2 % 2, 2)) for rank in range(8)]
    assert [one.rows.rank for one in group] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [one.copies.rank for one in group] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {one.rows.size for one in group} == {2}


def test_stages_are_outermost_so_that_they_may_be_nodes() -> None:
    layout = {"sharding": {"pipeline": 2, "tensor": 2}, "workers": {"num_workers": 8}}
    spec = small_spec(architecture=SHAPE, global_batch_tokens=8 * 16, **layout)
    assert (spec.num_copies, spec.accumulation_steps) == (2, 2)
    cpu = torch.device("cpu")
    group = [Group(rank, 8, cpu, tensor=Axis(rank % 2, 2), pipeline=Axis(rank // 4, 2)) for rank in range(8)]
    assert [one.in_stage.rank for one in group] == [0, 1, 2, 3] * 2
    assert [one.rows.rank for one in group] == [0, 0, 1, 1] * 2
    assert [one.copies.rank for one in group] == [0, 0, 1, 1] * 2
    assert [one.once(1) for one in group] == [0, 0, 0, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("tensor", [2, 8])
def test_what_a_worker_holds_is_counted_on_the_meta_device(size: ModelSize, tensor: int) -> None:
    spec = small_spec(**LARGE | {"sharding": {"tensor": tensor}, "architecture": {**LLAMA_70B, "num_layers": 2}})
    shape = spec.architecture
    assert shape is not None
    with torch.device("meta"):
        model = model_of(config_of(shape, 128256))
    counted = size_of_architecture(shape, 128256)
    make_parts(model, None, Axis(0, tensor), torch.device("meta"), torch.bfloat16)
    held = sum(parameter.numel() for parameter in model.parameters())
    assert memory_per_device(spec, counted).weights == pytest.approx(2 * held, rel=1e-3)


@pytest.mark.parametrize("is_tied", [True, False])
def test_what_a_stage_holds_is_counted_on_the_meta_device(is_tied: bool) -> None:
    shape = {**LLAMA_70B, "num_layers": 6, "tied_embeddings": is_tied}
    spec = small_spec(**LARGE | {"sharding": {"pipeline": 4, "tensor": 2}, "architecture": shape})
    assert spec.architecture is not None
    counted = size_of_architecture(spec.architecture, 128256)
    for rank, stage in enumerate(stages_of(spec, counted)):
        with torch.device("meta"):
            model = model_of(config_of(spec.architecture, 128256))
        keep_stage(model, Axis(rank, 4))
        held = sum(parameter.numel() for parameter in model.parameters())
        assert stage.size.parameters == pytest.approx(held, rel=1e-4)
        assert (stage.is_tied, stage.in_flight) == (is_tied, 4 - rank)


def test_what_a_step_sends_by_hand(size: ModelSize) -> None:
    changes = {"sharding": {"tensor": 8}, "global_batch_tokens": 8 * 4096}
    sent = traffic(small_spec(**LARGE | changes), size)
    # 80 layers with four sums, the embeddings' and the head's, of 4096 × 8192 numbers in bf16, over 8 workers.
    assert sent.tensor == 2 * (80 * 4 + 2) * (2 * 4096 * 8192 * 2 * 7 // 8)
    assert sent.context == 0
    assert sent.copies == 2 * (size.parameters // 8 * 4 * 3 // 4)
    cut = traffic(small_spec(**LARGE | changes | {"sharding": {"context": 8}}), size)
    # Forward and backward, 64 heads of queries and of outputs, and 8 each of keys and values.
    assert cut.context == 2 * 2 * 80 * (4096 // 8 * (2 * 64 + 2 * 8) * 128 * 2 * 7 // 8)
    assert cut.tensor == 0
    staged = traffic(small_spec(**LARGE | {"sharding": {"pipeline": 4, "tensor": 8}}), size)
    # 64 micro-batches' hidden states to the next stage, and their gradients to the one before; nothing to other copies.
    assert staged.pipeline == 64 * 2 * (4096 * 8192 * 2)
    assert staged.copies == 0


def test_70b_on_four_nodes_fits_with_a_layout_that_is_named(size: ModelSize) -> None:
    fleet, spec = fleet_of("4x8xH100-80GB"), small_spec(**LARGE)
    assert not fits(spec, size, fleet)
    best = fastest(spec, size, fleet, lambda other: fits(other, size, fleet))
    assert best is not None
    assert fits(best, size, fleet)
    assert "activation_checkpointing: true with sharding.zero_stage: 3" in advice(spec, size, fleet)
    # Stages are nodes, between which only hidden states go.
    assert (best.sharding.pipeline, best.sharding.tensor, best.sharding.zero_stage) == (4, 8, 0)
    without = fastest(spec, size, fleet, lambda other: fits(other, size, fleet) and other.sharding.pipeline == 1)
    assert without is not None
    assert (without.sharding.tensor, without.sharding.zero_stage) == (8, 2)
    sheet = PlanSheet()
    add_fleet(sheet, spec, size, 10**9)
    facts = dict(sheet.facts)
    assert facts["fastest that fits"].startswith(layout_of(best))
    add_fleet(sheet, best, size, 10**9)
    facts = dict(sheet.facts)
    assert facts["pipeline"].startswith("stages of 20, 21, 20, 19 layers; 64 micro-batches")
    assert facts["pipeline"].endswith("each waits 4% of the time")
    assert any("do not fit" in problem for problem in sheet.problems)


def test_a_row_of_128k_tokens_fits_where_it_is_cut() -> None:
    fleet = fleet_of("4x8xH100-80GB")
    shape = {**LLAMA_70B, "num_layers": 16, "hidden_size": 2048, "num_heads": 32, "feed_forward_size": 8192}
    long = {"sequence_length_tokens": 131072, "micro_batch_sequences": 4, "global_batch_tokens": 128 * 131072}
    alone = small_spec(**LARGE | long | {"architecture": shape, "activation_checkpointing": True})
    assert alone.architecture is not None
    size = size_of_architecture(alone.architecture, 128256)
    assert not fits(alone, size, fleet)
    best = fastest(alone, size, fleet, lambda other: fits(other, size, fleet))
    assert best is not None
    assert best.sharding.together > 1


def test_what_a_worker_holds_and_computes_of_a_mixture_is_counted_on_the_meta_device(mixture: Any) -> None:
    size = size_of_model(mixture)
    assert (size.parameters, size.num_experts, size.experts_per_token) == (30_532_122_624, 128, 8)
    # Qwen3-30B-A3B is said to have 3.3 billion active parameters: here without the embeddings.
    assert size.multiplied == pytest.approx(3.35e9 - size.vocabulary_size * 2048, rel=0.01)
    own = copy.deepcopy(mixture)
    make_parts(own, None, ALONE, torch.device("meta"), torch.bfloat16, Axis(3, 8))
    held = sum(parameter.numel() for parameter in own.parameters())
    spec = small_spec(**ON_8_H200 | {"sharding": {"expert": 8}})
    memory = memory_per_device(spec, size)
    assert (memory.weights, memory.gradients) == (2 * held, 4 * held)
    cut = memory_per_device(small_spec(**ON_8_H200 | {"sharding": {"expert": 8, "zero_stage": 2}}), size)
    others = size.parameters - size.experts
    assert cut.optimizer == 12 * (others // 8 + size.experts // 8)
    fewer = memory_per_device(small_spec(**ON_8_H200 | {"sharding": {"expert": 2, "zero_stage": 2}}), size)
    assert fewer.optimizer == cut.optimizer
    assert fewer.weights == 2 * (others + size.experts // 2)


def test_what_a_step_sends_to_experts_by_hand(mixture: Any) -> None:
    size = size_of_model(mixture)
    sent = traffic(small_spec(**ON_8_H200 | {"sharding": {"expert": 8}}), size)
    # Four micro-batches, there and back and their gradients, in 48 layers, of 8 × 2048 numbers in bf16 for each token.
    assert sent.expert == 4 * 4 * 48 * (8192 * 8 * 2048 * 2 * 7 // 8)
    assert sent.copies == 2 * ((size.parameters - size.experts) * 4 * 7 // 8)
    assert sent.total == sent.expert + sent.copies


def test_30b_a3b_on_8_h200_fits_with_its_experts_spread(mixture: Any) -> None:
    size, fleet, spec = size_of_model(mixture), fleet_of("8xH200-141GB"), small_spec(**ON_8_H200)
    assert not fits(spec, size, fleet)
    best = fastest(spec, size, fleet, lambda other: fits(other, size, fleet))
    assert best is not None
    assert best.sharding.expert == 8
    assert fits(best, size, fleet)
    odd = ModelSize(**{**size.__dict__, "num_experts": 100})
    assert any("100 experts" in said for said in problems(best, odd, fleet))


def test_a_layout_over_nodes_or_of_other_heads_is_a_problem(size: ModelSize) -> None:
    wide = small_spec(**LARGE | {"sharding": {"tensor": 8, "context": 2}})
    assert any("reaches over nodes" in said for said in problems(wide, size, fleet_of("4x8xH100-80GB")))
    model = small_spec(**LARGE | {"sharding": {"tensor": 8, "zero_stage": 2}})
    fewer = ModelSize(**{**size.__dict__, "num_key_value_heads": 4})
    assert any("4 key-value heads" in said for said in problems(model, fewer, fleet_of("4x8xH100-80GB")))
