"""The one loop trains every kind of adapter, and what it publishes is loaded again and is better than the base."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import pytest
import torch
from peft import LoHaConfig
from pydantic import Field, ValidationError
from support.models import small_config
from support.training_jobs import LENGTH, ONE, VOCABULARY, small_job, small_spec
from transformers import LlamaConfig, LlamaForCausalLM

from rayloom.models import adapters
from rayloom.models.loading import load
from rayloom.models.quantised import load_quantised, stored_bytes
from rayloom.score.perplexity import heldout_loss
from rayloom.specs.base import Spec
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.adapters import Adapter
from rayloom.text.packed.shards import ShardWriter, TokenShards
from rayloom.train.loop.loop import train
from rayloom.train.sizes.estimates import memory_per_device
from rayloom.train.sizes.model_size import size_of_base

ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"type": "lora", "rank": 4},
    "dora": {"type": "lora", "rank": 4, "weight_decomposed": True},
    "nf4": {"type": "lora", "rank": 4, "quantised_base": "nf4"},
    "int8": {"type": "lora", "rank": 4, "quantised_base": "int8"},
    "bottleneck": {"type": "bottleneck", "size": 8},
    "prefix": {"type": "prefix", "num_virtual_tokens": 4},
    "prompt": {"type": "prompt", "num_virtual_tokens": 4},
    "p_tuning": {"type": "p_tuning", "num_virtual_tokens": 4, "encoder_size": 32},
    "ia3": {"type": "ia3"},
    "parts": {"type": "parts", "parts": ["attention", "norms"], "frozen_lower_layers": 1},
}
STEPS = 10


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that has learned nothing yet, so that every adapter finds something to do."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(small_config(VOCABULARY)).save_pretrained(folder)
    return folder


def documents(folder: Path) -> Iterator[TokenShards]:
    """The same rows with one text in each, as methods with virtual tokens need them."""
    for name in ("train", "heldout"):
        packed = TokenShards(folder / name, LENGTH)
        writer = ShardWriter(folder / "alone" / name, VOCABULARY, "made-up", sequence_length_tokens=LENGTH)
        for row in (packed.row(index) for index in range(len(packed))):
            for start, end in zip(*_bounds(row.positions.tolist()), strict=True):
                writer.start_row()
                writer.add(row.tokens[start:end])
        writer.close()
        yield TokenShards(folder / "alone" / name, LENGTH)


def _bounds(positions: list[int]) -> tuple[list[int], list[int]]:
    starts = [place for place, position in enumerate(positions) if position == 0]
    return starts, [*starts[1:], len(positions)]


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_is_trained_by_the_loop_and_loaded_again(name: str, base: Path, tmp_path: Path) -> None:
    job = small_job(tmp_path)
    adapter = ADAPTERS[name]
    values: dict[str, Any] = {"architecture": None, "base": str(base), "num_steps": STEPS, "learning_rate": 0.02}
    if name == "ia3":
        values["learning_rate"] = 0.2  # three factors a layer move little
    if adapter["type"] in ("prefix", "prompt", "p_tuning"):
        list(documents(tmp_path / "data"))
        job = replace(job, train=(tmp_path / "data/alone/train",), heldout={"heldout": tmp_path / "data/alone/heldout"})
        source = {"dataset": "./x", "format": "alpaca"}
        values["data"] = {"type": "conversations", "sources": [source]}
    spec = small_spec(adapter=adapter, **values)
    job = replace(job, spec=spec, base=base, num_rows=STEPS * spec.global_batch_sequences)
    train(job, ONE, lambda event: None)
    heldout = TokenShards(next(iter(job.heldout.values())), LENGTH)
    tuned = load(job.out) if name == "parts" else load(base, job.out)
    before, after = heldout_loss(load(base), heldout, 4), heldout_loss(tuned, heldout, 4)
    assert after.mean_nats < before.mean_nats - 0.01


# -- a new adapter is a spec, a function and a line: CONTRIBUTING ------------------------------------------------------


class LohaAdapter(Spec):
    """Products of two low-rank updates (Hyeon-Woo et al. 2022, arXiv:2108.06098)."""

    type: Literal["loha"]
    rank: int = 4
    """Rank of each of the two updates."""
    usual_learning_rate: ClassVar[float] = 0.02


class TrainSpecWithToy(TrainSpec):
    """A training job that also takes the toy."""

    adapter: Annotated[get_args(Adapter)[0] | LohaAdapter, Field(discriminator="type")]  # type: ignore[valid-type]


def loha(adapter: LohaAdapter, *_: object) -> LoHaConfig:
    return LoHaConfig(r=adapter.rank, alpha=adapter.rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def test_a_new_adapter_is_planned_trained_and_loaded_again(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(adapters._CONFIGS, LohaAdapter, loha)
    values = small_spec(architecture=None, base=str(base), num_steps=STEPS).model_dump(mode="json", exclude_none=True)
    spec = TrainSpecWithToy.model_validate_json(json.dumps(values | {"adapter": {"type": "loha"}}), strict=True)
    size = size_of_base(spec, base)
    assert size.trained == 2 * 2 * 4 * 4 * 64  # two layers, two matrices each, four factors of rank 4 and width 64
    assert 0 < memory_per_device(spec, size).optimizer < memory_per_device(small_spec(), size).weights
    assert adapters.why_not_served(spec.adapter) == "vLLM loads LoRA only: merge it"
    job = small_job(tmp_path)
    train(replace(job, spec=spec, base=base, num_rows=STEPS * spec.global_batch_sequences), ONE, lambda event: None)
    heldout = TokenShards(next(iter(job.heldout.values())), LENGTH)
    before, after = heldout_loss(load(base), heldout, 4), heldout_loss(load(base, job.out), heldout, 4)
    assert after.mean_nats < before.mean_nats


def test_quantised_bases_take_the_memory_that_they_promise(tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=16, **sizes)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    whole = stored_bytes(LlamaForCausalLM.from_pretrained(tmp_path).model.layers)
    for precision, most in (("nf4", 0.30), ("int8", 0.52)):
        model = load_quantised(LlamaForCausalLM, tmp_path, precision, torch.bfloat16)  # type: ignore[arg-type]
        assert stored_bytes(model.get_submodule("model.layers")) < most * whole
        assert all(parameter.untyped_storage().nbytes() == parameter.nbytes for parameter in model.parameters())


def test_gradients_still_come_through_a_4_bit_base_after_it_was_evaluated(base: Path) -> None:
    """bitsandbytes repacks weights in evaluation for a kernel without a backward pass."""
    model = load_quantised(LlamaForCausalLM, base, "nf4", torch.bfloat16)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        model.eval()(input_ids=ids)
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()  # type: ignore[operator]
    model.train()(inputs_embeds=embeddings).logits.float().logsumexp(-1).sum().backward()
    state = model.get_submodule("model.layers.0.mlp.down_proj").weight.quant_state  # type: ignore[union-attr]
    assert embeddings.grad.abs().sum() > 0
    assert not getattr(state, "packing_format_for_cpu", False)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"adapter": ADAPTERS["nf4"], "sharding": {"zero_stage": 3}}, "use zero_stage 0"),
        ({"adapter": ADAPTERS["parts"], "sharding": {"zero_stage": 3}}, "use stage 2"),
        ({"adapter": ADAPTERS["prompt"]}, "a corpus packs many"),
        ({"adapter": {"type": "parts", "parts": ["embeddings"], "frozen_lower_layers": 1}}, "leave one of them out"),
    ],
)
def test_methods_that_do_not_fit_the_job_are_refused_with_the_file(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        small_spec(architecture=None, base="./base", **changes)
