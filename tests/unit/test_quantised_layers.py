"""Which layers of a model are quantised, and how those that are not are named for a server that would look for them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from rayloom.errors import InputError, QualityError
from rayloom.export.model_folder import ModelFolder
from rayloom.export.quality import engine_check
from rayloom.export.quantize import write_quantized
from rayloom.export.schemes.compressed import linear_layers
from rayloom.models.loading import load
from rayloom.models.weight_files import stored_tensors
from rayloom.specs.export import Int8Scheme

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64,
}  # fmt: skip
PLAIN = Int8Scheme(type="int8", smoothing=None)


def folder_with(directory: Path, name: str, config: Any, **saving: Any) -> ModelFolder:
    torch.manual_seed(0)
    model = getattr(transformers, name)(config)
    model.to(torch.bfloat16).save_pretrained(directory / "model", **saving)
    return ModelFolder.of(directory / "model")


def quantised(folder: ModelFolder, scheme: Int8Scheme = PLAIN) -> Path:
    target = folder.path.parent / "small"
    target.mkdir()
    write_quantized(folder, scheme, None, target)
    return target


def mixture_of_experts(kind: str) -> tuple[str, Any]:
    if kind == "qwen3":
        config: Any = transformers.Qwen3MoeConfig(
            **SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
        )
        return "Qwen3MoeForCausalLM", config
    return "MixtralForCausalLM", transformers.MixtralConfig(**SIZES, num_local_experts=4)


@pytest.mark.parametrize("kind", ["qwen3", "mixtral"])
def test_routers_and_experts_stay_as_they_are_and_are_named(tmp_path: Path, kind: str) -> None:
    folder = folder_with(tmp_path, *mixture_of_experts(kind))
    target = quantised(folder)
    ignored = json.loads((target / "config.json").read_text())["quantization_config"]["ignore"]
    types = {name.removesuffix(".weight"): tensor.type for name, tensor in stored_tensors(target).items()}
    assert {types[f"model.layers.{n}.self_attn.{x}_proj"] for n in (0, 1) for x in "qkvo"} == {"I8"}
    # As transformers names them, and as a server does that keeps each expert by itself.
    for name in ("mlp.gate", "mlp.experts", "mlp.experts.3.up_proj", "mlp.experts.0.w1"):
        full = f"model.layers.1.{name}"
        assert types.get(full, "BF16") == "BF16"
        assert any(re.match(one[3:], full) if one.startswith("re:") else one == full for one in ignored), name
    assert not any("self_attn" in one for one in ignored)


@pytest.mark.parametrize("kind", ["qwen3", "mixtral"])
def test_transformers_reads_it_as_nearly_the_same_model(tmp_path: Path, kind: str) -> None:
    folder = folder_with(tmp_path, *mixture_of_experts(kind))
    tokens = torch.arange(24)[None]
    with torch.no_grad():
        whole, small = (load(path)(tokens).logits.float() for path in (folder.path, quantised(folder)))
    assert 0 < (whole - small).abs().mean() < 0.05 * whole.abs().mean()


def test_shards_of_the_base_are_one_model_again(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "LlamaForCausalLM", transformers.LlamaConfig(**SIZES), max_shard_size="12KB")
    assert len(list(folder.path.glob("*.safetensors"))) > 2
    after = stored_tensors(quantised(folder))
    before = stored_tensors(folder.path)
    assert {name for name in after if not name.endswith("_scale")} == set(before)


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("GPT2LMHeadModel", transformers.GPT2Config(vocab_size=96, n_embd=32, n_head=2, n_layer=2), "no linear layer"),
        (
            "GPTNeoXForCausalLM",
            transformers.GPTNeoXConfig(
                vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
            ),
            "under another name",
        ),
    ],
)
def test_a_head_that_a_server_would_not_find_is_refused(tmp_path: Path, name: str, config: Any, said: str) -> None:
    folder = folder_with(tmp_path, name, config)
    with pytest.raises(InputError, match=said):
        quantised(folder, Int8Scheme(type="int8", smoothing=None, head=True))


def test_a_head_of_its_own_is_quantised_where_it_is_called_lm_head() -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    assert set(linear_layers(model, with_head=True)) - set(linear_layers(model)) == {"lm_head"}


# -- the gate that asks the engine -------------------------------------------------------------------------------------


def test_another_model_in_the_engine_fails_the_gate_and_rounding_does_not() -> None:
    measured = [[-1.0, -2.0, -3.0], [-0.5]]
    rounded = engine_check.difference(measured, [[-1.06, -1.96, -3.02], [-0.47]])
    assert (rounded.of_the_mean, rounded.of_a_token, rounded.num_tokens) == (
        pytest.approx(0.0025), pytest.approx(0.0375), 4,
    )  # fmt: skip
    engine_check.check(rounded, 0.05, "small")
    # Experts of zeros took 0.41 nats from a mixture.
    for served in ([[-1.4, -2.4, -3.4], [-0.9]], [[float("nan")] * 3, [-0.5]]):
        with pytest.raises(QualityError, match=r"another model than was measured.*differs by"):
            engine_check.check(engine_check.difference(measured, served), 0.05, "small")
