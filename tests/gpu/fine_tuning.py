"""LoRA and QLoRA on 8B parameters: the loop that ships against a plain loop with transformers and PEFT, same rows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from place import Place, SkippedError, need, target
from runs import Figures, batches_of, run, spec_of, write_rows
from timed_steps import WARM_UP_STEPS, StepClock
from torch import nn

from rayloom.models.adapters import attach
from rayloom.models.quantised import num_quantised
from rayloom.specs.train import TrainSpec
from rayloom.train.sizes.estimates import memory_per_device
from rayloom.train.sizes.model_size import ModelSize, size_of_model

LEAST_TOKENS_PER_SECOND = 12_500
"""Of LoRA at 4,096 tokens on one H100 (Automodel publishes 12,473)."""
MOST_PEAK_TO_PLAN = 1.15
MOST_NATS = 0.05
"""Between the losses of both loops: their bf16 roundings are in other places."""
FREE_SHARE = 0.85
"""Of the device's memory, that the plan may take."""
LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 1e-4, 0.0, 1.0


def lora(place: Place) -> dict[str, Any]:
    need("peft")
    found = _compared(place, None)
    if place.is_gpu and not place.is_small:
        speed = target(found["ours"]["tokens_per_second"], least=LEAST_TOKENS_PER_SECOND)
        peak = target(found["ours"]["peak_to_plan"], most=MOST_PEAK_TO_PLAN)
        found["targets"] = {"tokens_per_second": speed, "peak_to_plan": peak}
    return found


def qlora(place: Place) -> dict[str, Any]:
    need("peft", "bitsandbytes")
    return _compared(place, "nf4")


def _compared(place: Place, quantised: str | None) -> dict[str, Any]:
    config = llama_config(place)
    write_rows(place.folder, config.vocab_size, config.max_position_embeddings)
    spec = _fitting(place, config, quantised)
    steps = place.of(6, 4)
    ours = run(place, spec, place.folder, steps, lambda: attach(random_base(place, config, quantised), spec.adapter))
    theirs = _plain_loop(place, spec, random_base(place, config, quantised), steps)
    apart = max(abs(one - other) for one, other in zip(ours.losses, theirs.losses, strict=True))
    if not apart <= MOST_NATS:
        raise AssertionError(f"losses of our loop {ours.losses} and of the plain one {theirs.losses}")
    return {
        "micro_batch_sequences": spec.micro_batch_sequences,
        "activation_checkpointing": spec.activation_checkpointing,
        "ours": ours.described(spec, place),
        "plain": theirs.described(spec, place),
        "speed_ratio": round(ours.tokens_per_second / theirs.tokens_per_second, 4),
        "largest_loss_difference": round(apart, 5),
    }


def llama_config(place: Place) -> Any:
    """Llama 3's shape of 8B, or a tiny one."""
    from transformers import LlamaConfig

    shape = place.of(
        {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 4096},
        {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    )  # fmt: skip
    return LlamaConfig(**shape, tie_word_embeddings=False)


def _fitting(place: Place, config: Any, quantised: str | None) -> TrainSpec:
    """The largest micro batch that fits by `plan`; with recomputed activations if none does otherwise."""
    room = torch.cuda.get_device_properties(place.device).total_memory if place.is_gpu else math.inf
    for is_checkpointed in (False, True):
        for micro in place.of((4, 2, 1), (2,)):
            spec = spec_of(
                place,
                base="artifact:random",
                adapter={"type": "lora", "rank": 16, "quantised_base": quantised},
                sequence_length_tokens=config.max_position_embeddings,
                micro_batch_sequences=micro,
                global_batch_tokens=4 * config.max_position_embeddings,
                learning_rate=LEARNING_RATE,
                optimizer={"type": "adamw", "weight_decay": WEIGHT_DECAY},
                gradient_clip_norm=CLIP_NORM,
                precision="bf16",
                activation_checkpointing=is_checkpointed,
            )
            if memory_per_device(spec, _planned_size(spec, config, quantised)).total <= FREE_SHARE * room:
                return spec
    raise SkippedError("8B parameters do not fit this device")


def _planned_size(spec: TrainSpec, config: Any, quantised: str | None) -> ModelSize:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = attach(AutoModelForCausalLM.from_config(config), spec.adapter)
    return replace(size_of_model(model), quantised=num_quantised(model) if quantised else 0)


def random_base(place: Place, config: Any, quantised: str | None) -> nn.Module:
    """Random weights in bf16, made on the device; the same at every call. Its layers in NF4, one by one, if wanted."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(place.device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if quantised:
        for name, layer in list(model.named_modules()):
            if isinstance(layer, nn.Linear) and name != "lm_head":
                model.set_submodule(name, _in_nf4(layer, place.device))
        model.is_loaded_in_4bit = True
    torch.manual_seed(1)  # for the adapter, whichever loop attaches it
    return model  # type: ignore[no-any-return]


def _in_nf4(layer: nn.Linear, device: torch.device) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    with torch.device("meta"):
        made: Any = Linear4bit(
            layer.in_features, layer.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
        )
    made.weight = Params4bit(
        layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=made
    ).to(device)
    made.support_avx512bf16_for_cpu = False
    return made  # type: ignore[no-any-return]


def _plain_loop(place: Place, spec: TrainSpec, base: nn.Module, num_steps: int) -> Figures:
    """What one would write by hand: PEFT with fp32 adapters, autocast, one loss over all logits, clip, fused AdamW."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(base, config).train()
    if spec.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=True)
    clock, losses = StepClock(place.device), []
    place.start_peak()
    clock.tick()
    for step in range(num_steps):
        batches = list(batches_of(spec, place.folder, place, step))
        total = torch.zeros((), device=place.device)
        for batch in batches:
            with torch.autocast(place.device.type, torch.bfloat16):
                loss = model(**batch, use_cache=False).loss
            (loss / len(batches)).backward()
            total += loss.detach() / len(batches)
        nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total))
        clock.tick()
    speed = spec.global_batch_tokens * (num_steps - WARM_UP_STEPS) / clock.counted_seconds
    return Figures(losses, speed, place.peak_bytes(), size_of_model(model))
