"""A decoder of 1B parameters from fresh weights: tokens/s, utilisation, and memory beside `plan`'s.

Compiled or not, with and without activation checkpointing, and with Liger's kernels where they are installed.
"""

from __future__ import annotations

from typing import Any

from place import Place, is_installed, target, without_memory_error
from runs import run, spec_of, write_rows

MOST_PEAK_TO_PLAN = 1.15


def measured(place: Place) -> dict[str, Any]:
    length, vocabulary = place.of((4096, 32768), (64, 256))
    shape = place.of(
        {"num_layers": 20, "hidden_size": 2048, "num_heads": 16, "num_key_value_heads": 8},
        {"num_layers": 2, "hidden_size": 64, "num_heads": 4, "num_key_value_heads": 2},
    )
    write_rows(place.folder, vocabulary, length, document_tokens=length // 4)
    variants: dict[str, dict[str, Any]] = {
        "plain": {},
        "compiled": {"compile": True},
        "checkpointed": {"activation_checkpointing": True},
        "products_kept": {"activation_checkpointing": {"keep": "products"}},
        "compiled_and_checkpointed": {"compile": True, "activation_checkpointing": True},
    }
    if is_installed("liger_kernel"):
        variants |= {"liger": {"kernels": "liger"}}
    if place.is_small:  # compiling on a CPU has tests of its own, and takes its time; Liger's kernels are for GPUs
        variants = {name: facts for name, facts in variants.items() if not {"compile", "kernels"} & set(facts)}
    found: dict[str, Any] = {}
    for name, facts in variants.items():
        spec = spec_of(
            place,
            architecture={"type": "decoder", "max_positions": length, **shape},
            sequence_length_tokens=length,
            micro_batch_sequences=4,
            global_batch_tokens=8 * length,
            precision="bf16",
            **facts,
        )

        def figures(spec: Any = spec) -> dict[str, Any]:
            return run(place, spec, place.folder, place.of(8, 4)).described(spec, place)

        found[name] = without_memory_error(figures)
    if place.is_gpu and not place.is_small:
        peaks = [figures["peak_to_plan"] for figures in found.values() if "peak_to_plan" in figures]
        found["targets"] = {"peak_to_plan": target(max(peaks), most=MOST_PEAK_TO_PLAN)}
    return found
