"""Held-out loss of whole row sets, and of models as they are served."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config, preset_name_to_scheme
from compressed_tensors.quantization.utils import calculate_qparams
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from support.models import small_config
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from rayloom.errors import InputError
from rayloom.models import int8_linear
from rayloom.models.int8_linear import Int8Linear
from rayloom.models.loading import load
from rayloom.score.perplexity import Loss, heldout_loss

VOCABULARY = 64
CONFIG = small_config(VOCABULARY, intermediate_size=96, num_key_value_heads=2)


@dataclass
class Packed:
    tokens: NDArray[np.int64]
    trained: NDArray[np.bool_]
    positions: NDArray[np.int64]


class Packing(list[Packed]):
    def row(self, index: int) -> Packed:
        return self[index]


@pytest.fixture
def rows() -> Packing:
    random = np.random.default_rng(0)
    found = Packing()
    for size in (9, 16, 4, 12, 7):
        trained = random.random(size) < 0.6
        trained[0] = False
        found.append(Packed(random.integers(0, VOCABULARY, size), trained, np.arange(size)))
    return found


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG)


@torch.no_grad()
def loss_by_hand(model: nn.Module, rows: Packing) -> float:
    total = 0.0
    for row in rows:
        logits = model(input_ids=torch.from_numpy(row.tokens)[None]).logits[0].float()
        log_p = logits.log_softmax(-1)
        total -= sum(float(log_p[i - 1, row.tokens[i]]) for i in range(1, len(row.tokens)) if row.trained[i])
    return total


@pytest.mark.parametrize("micro_batch_sequences", [1, 2, 5])
def test_the_loss_of_all_rows_is_that_of_each_alone(
    model: LlamaForCausalLM, rows: Packing, micro_batch_sequences: int
) -> None:
    done: list[int] = []
    found = heldout_loss(model.train(), rows, micro_batch_sequences, done.append)
    assert found.nats == pytest.approx(loss_by_hand(model, rows), rel=1e-5)
    assert found.num_tokens == sum(int(row.trained.sum()) for row in rows)
    assert sum(done) == len(rows)
    assert model.training


def test_losses_add_up_and_say_their_perplexity() -> None:
    both = Loss(3.0, 2) + Loss(1.0, 2)
    assert both == Loss(4.0, 4)
    assert both.perplexity == pytest.approx(math.e)
    assert math.isnan(Loss(0.0, 0).mean_nats)
    assert both.as_metrics() == {"mean_nats": 1.0, "perplexity": 2.7183, "num_tokens": 4}


def quantised(model: LlamaForCausalLM, out: Path) -> Path:
    config = QuantizationConfig(
        config_groups={"group_0": preset_name_to_scheme("W8A8", ["Linear"])}, ignore=["lm_head"]
    )
    apply_quantization_config(model, config)
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            low, high = module.weight.amin(1, keepdim=True), module.weight.amax(1, keepdim=True)
            module.weight_scale.data.copy_(calculate_qparams(low, high, module.quantization_scheme.weights)[0])
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(out)
    compressor.update_config(out)
    return out


def test_int8_weights_are_multiplied_as_integers_and_stay_so(
    model: LlamaForCausalLM, rows: Packing, tmp_path: Path
) -> None:
    plain = heldout_loss(model, rows, 2)
    loaded = load(quantised(model, tmp_path))
    layers = [module for module in loaded.modules() if isinstance(module, Int8Linear)]
    assert len(layers) == 2 * 7
    scored = heldout_loss(loaded, rows, 2)
    assert all(layer.weight.dtype == torch.int8 for layer in layers)
    assert scored.mean_nats == pytest.approx(plain.mean_nats, abs=0.02)
    assert scored.nats != plain.nats


@pytest.mark.parametrize("has_int8", [True, False])
def test_an_int8_layer_is_integers_times_both_scales(monkeypatch: pytest.MonkeyPatch, has_int8: bool) -> None:
    monkeypatch.setattr(int8_linear, "multiplies_int8", lambda: has_int8)
    random = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (48, 32), dtype=torch.int8, generator=random)
    scale, bias = torch.rand(48, 1, generator=random), torch.rand(48, generator=random)
    x = torch.randn(3, 5, 32, generator=random)
    token_scale = x.abs().amax(-1, keepdim=True) / 127
    integers = torch.round(x / token_scale).long()
    expected = (integers @ weight.long().T) * token_scale * scale.T + bias
    found = Int8Linear(weight, scale, bias)(x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)
    assert Int8Linear(weight, scale, None)(torch.zeros(2, 32)).abs().max() == 0


def test_an_adapter_works_beside_its_base(model: LlamaForCausalLM, rows: Packing, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    expected = heldout_loss(adapted, rows, 2)
    found = heldout_loss(load(tmp_path / "base", tmp_path / "adapter"), rows, 2)
    assert found.nats == pytest.approx(expected.nats, rel=1e-5)
    assert found.nats != pytest.approx(heldout_loss(load(tmp_path / "base"), rows, 2).nats, rel=1e-4)


def test_folders_that_hold_no_model_are_refused(tmp_path: Path, model: LlamaForCausalLM) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be loaded"):
        load(tmp_path)
    model.save_pretrained(tmp_path / "base")
    wider = LlamaForCausalLM(LlamaConfig(**(CONFIG.to_dict() | {"hidden_size": 128})))
    get_peft_model(wider, LoraConfig(r=2, target_modules="all-linear")).save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match="does not fit its base"):
        load(tmp_path / "base", tmp_path / "adapter")
