"""Every adapter: what it trains, that it is learned, and that its folder gives the same logits when loaded again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import TypeAdapter
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from rayloom.errors import InputError
from rayloom.models.adapters import OWN_CONFIG, TaskType, attach, load, save, why_not_served
from rayloom.models.parts import keys_and_values, layer_of, outputs_of, part_of
from rayloom.specs.training.adapters import Adapter, is_whole_model

SIZES = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"type": "lora", "rank": 4},
    "rslora": {"type": "lora", "rank": 4, "rank_stabilised": True},
    "dora": {"type": "lora", "rank": 4, "weight_decomposed": True},
    "lora on two": {"type": "lora", "rank": 4, "target_modules": ["query", "value", "q_proj", "v_proj"]},
    "bottleneck": {"type": "bottleneck", "size": 8},
    "prefix": {"type": "prefix", "num_virtual_tokens": 3},
    "prompt": {"type": "prompt", "num_virtual_tokens": 3},
    "p_tuning": {"type": "p_tuning", "num_virtual_tokens": 3, "encoder_size": 16},
    "bitfit": {"type": "bitfit"},
    "ia3": {"type": "ia3"},
}


def llama() -> nn.Module:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=64))


@pytest.mark.parametrize("targets", [["lm_head"], ["q_proj", "lm_head"], ["embed_tokens"]])
def test_lora_on_one_of_two_tied_layers_is_refused(targets: list[str]) -> None:
    adapter = TypeAdapter(Adapter).validate_python({"type": "lora", "rank": 4, "target_modules": targets})
    for device in ("cpu", "meta"):
        with torch.device(device):
            tied = LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True))
            assert attach(LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)), adapter)
            with pytest.raises(InputError, match="embeddings as well") as raised:
                attach(tied, adapter)
        assert "parts: [embeddings]" in str(raised.value.fix)


def bert() -> nn.Module:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SIZES, num_labels=3, max_position_embeddings=64))


def bert_tagger() -> nn.Module:
    torch.manual_seed(0)
    return BertForTokenClassification(BertConfig(**SIZES, num_labels=5, max_position_embeddings=64))


MODELS: dict[str, tuple[Any, TaskType]] = {
    "llama": (llama, "CAUSAL_LM"),
    "bert": (bert, "SEQ_CLS"),
    "bert tagger": (bert_tagger, "TOKEN_CLS"),
}


def adapter_of(values: dict[str, Any]) -> Adapter:
    return TypeAdapter(Adapter).validate_python(values)


def logits(model: nn.Module) -> Tensor:
    ids = torch.arange(12).view(2, 6) + 3
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    # Methods with virtual tokens give logits for those too, before the text's own.
    return found[:, -6:] if found.dim() == 3 else found


def trained(model: nn.Module, steps: int = 3) -> dict[str, Tensor]:
    """A few real steps; the trained parameters by name."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.05)
    ids = torch.arange(12).view(2, 6) + 3
    for _ in range(steps):
        optimizer.zero_grad()
        output = model.train()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        output.float().square().mean().backward()
        optimizer.step()
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_a_saved_adapter_gives_the_same_logits_when_loaded_again(method: str, name: str, tmp_path: Path) -> None:
    make, task = MODELS[name]
    if (method, name) == ("bitfit", "llama"):
        with pytest.raises(InputError, match="has none in its layers"):
            attach(make(), adapter_of(METHODS[method]), task)
        return
    adapter = adapter_of(METHODS[method])
    base = make()
    before = logits(base)
    adapted = attach(base, adapter, task)
    assert not is_whole_model(adapter)
    weights = trained(adapted)
    after = logits(adapted)
    assert (after - before).abs().max() > 1e-3
    save(adapted, adapter, weights, tmp_path)
    again = load(make(), tmp_path)
    torch.testing.assert_close(logits(again), after)
    if not (tmp_path / OWN_CONFIG).exists():
        torch.testing.assert_close(logits(PeftModel.from_pretrained(make(), str(tmp_path))), after)


@pytest.mark.parametrize(("method", "most"), [("lora", 0.2), ("bottleneck", 0.2), ("ia3", 0.01), ("prompt", 0.01)])
def test_few_weights_are_trained_and_the_base_stays_as_it_is(method: str, most: float) -> None:
    model = attach(llama(), adapter_of(METHODS[method]))
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    weights = trained(model)
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in frozen.items())
    assert 0 < sum(p.numel() for p in weights.values()) < most * sum(p.numel() for p in parameters.values())


def test_new_adapters_begin_as_the_base_itself() -> None:
    before = logits(llama())
    for method in ("lora", "dora", "bottleneck", "ia3"):
        torch.testing.assert_close(logits(attach(llama(), adapter_of(METHODS[method]))), before)


def test_heads_are_trained_beside_an_adapter_of_a_task() -> None:
    for method in ("lora", "bottleneck", "bitfit", "ia3", "prompt"):
        model = attach(bert(), adapter_of(METHODS[method]), "SEQ_CLS")
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert any("classifier" in name for name in names), method


def test_parts_are_trained_alone() -> None:
    model = attach(bert(), adapter_of({"type": "parts", "parts": ["attention", "head"], "frozen_lower_layers": 1}))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {layer_of(name) for name in names} == {None, 1, 2}
    inside = [name for name in names if layer_of(name) is not None]
    assert all(".attention." in name and "LayerNorm" not in name for name in inside)
    assert {name for name in names if layer_of(name) is None} == {"classifier.weight", "classifier.bias"}
    biases = attach(bert(), adapter_of({"type": "parts", "parts": ["biases"]}))
    assert all(name.endswith(".bias") for name, parameter in biases.named_parameters() if parameter.requires_grad)
    with pytest.raises(InputError, match="has none of: biases"):
        attach(llama(), adapter_of({"type": "parts", "parts": ["biases"]}))


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": 40, "d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 4, "d_kv": 8}
    return T5ForConditionalGeneration(T5Config(**sizes))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4))


@pytest.mark.parametrize(
    ("made", "keys", "attention", "feed_forward"),
    [
        (llama, {"k_proj", "v_proj"}, "self_attn.o_proj", "mlp.down_proj"),
        (bert, {"key", "value"}, "attention.output.dense", "output.dense"),
        (t5, {"k", "v"}, "SelfAttention.o", "DenseReluDense.wo"),
        (gpt2, set(), "attn.c_proj", "mlp.c_proj"),
    ],
)
def test_parts_of_architectures_are_known(
    made: Callable[[], nn.Module], keys: set[str], attention: str, feed_forward: str
) -> None:
    model = made()
    assert {name.rpartition(".")[2] for name in keys_and_values(model)} == keys
    behind_attention = outputs_of(model, "attention")
    behind_feed_forward = outputs_of(model, "feed_forward")
    assert any(name.endswith(attention) for name in behind_attention)
    assert behind_feed_forward
    assert all(name.endswith(feed_forward) and "attention" not in name for name in behind_feed_forward)
    assert not set(behind_attention) & set(behind_feed_forward)
    table = next(name for name, parameter in model.named_parameters() if parameter.shape[0] == 40)
    assert part_of(table, model) == "embeddings"


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    for method in ("bottleneck", "lora"):
        model = attach(bert(), adapter_of(METHODS[method]), "SEQ_CLS")
        save(model, adapter_of(METHODS[method]), trained(model), tmp_path / method)
        wider = BertForSequenceClassification(BertConfig(**(SIZES | {"hidden_size": 64}), num_labels=3))
        with pytest.raises(InputError, match="does not fit its base"):
            load(wider, tmp_path / method)


def test_own_adapters_say_what_they_are(tmp_path: Path) -> None:
    model = attach(bert(), adapter_of(METHODS["bottleneck"]), "SEQ_CLS")
    save(model, adapter_of(METHODS["bottleneck"]), trained(model), tmp_path)
    settings = json.loads((tmp_path / OWN_CONFIG).read_text())
    assert (settings["type"], settings["size"]) == ("bottleneck", 8)


@pytest.mark.parametrize(
    ("method", "reason"),
    [("lora", None), ("rslora", None), ("dora", "merge it"), ("ia3", "merge it"), ("prompt", "virtual tokens")],
)
def test_what_the_server_cannot_load_is_known(method: str, reason: str | None) -> None:
    found = why_not_served(adapter_of(METHODS[method]))
    assert (found is None) if reason is None else (found is not None and reason in found)
    assert "task head" in str(why_not_served(adapter_of(METHODS[method]), "SEQ_CLS"))
