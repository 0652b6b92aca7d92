"""All weights of 8B parameters, compiled, in bf16 and in float8: tokens/s, utilisation, and memory beside `plan`'s."""

from __future__ import annotations

from typing import Any

import torch
from fine_tuning import llama_config, random_base
from place import Place, SkippedError, is_installed, need, target, without_memory_error
from runs import run, spec_of, write_rows

LEAST_TOKENS_PER_SECOND = {"bf16": 6_700, "tensorwise": 8_600}
"""Of one H100 (torchtitan publishes 6,667 compiled and 8,532 in float8)."""
LEAST_BYTES = 120e9
"""Of the device: bf16 weights, fp32 master weights and gradients, and moments in 8 bits are 96 GB."""
MOST_NATS = 0.2
"""Between the last losses in bf16 and in float8."""


def measured(place: Place) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if place.is_gpu and not place.is_small:
        need("bitsandbytes")
        if torch.cuda.get_device_properties(place.device).total_memory < LEAST_BYTES:
            raise SkippedError("8B parameters do not fit this device")
        facts = {"compile": True, "activation_checkpointing": True, "optimizer": {"type": "adamw8bit"}}
    config = llama_config(place)
    write_rows(place.folder, config.vocab_size, config.max_position_embeddings)
    found: dict[str, Any] = {}
    variants: dict[str, dict[str, Any]] = {"bf16": {}}
    if place.is_gpu and is_installed("torchao") and torch.cuda.get_device_capability(place.device) >= (8, 9):
        variants["tensorwise"] = {"float8": "tensorwise"}
    for name, changes in variants.items():
        spec = spec_of(
            place,
            base="artifact:random",
            sequence_length_tokens=config.max_position_embeddings,
            micro_batch_sequences=2,
            global_batch_tokens=4 * config.max_position_embeddings,
            precision="bf16",
            **facts | changes,
        )

        def figures(spec: Any = spec) -> dict[str, Any]:
            made = run(place, spec, place.folder, place.of(6, 4), lambda: random_base(place, config, None))
            return made.described(spec, place)

        found[name] = without_memory_error(figures)
    losses = [figures["last_loss"] for figures in found.values() if "last_loss" in figures]
    if losses and not max(losses) - min(losses) <= MOST_NATS:
        raise AssertionError(f"last losses {losses} in {', '.join(found)}")
    if place.is_gpu and not place.is_small:
        speeds = {
            name: figures["tokens_per_second"] for name, figures in found.items() if "tokens_per_second" in figures
        }
        found["targets"] = {
            f"{name}_tokens_per_second": target(speed, least=LEAST_TOKENS_PER_SECOND[name])
            for name, speed in speeds.items()
        }
    return found
