"""LoRA adapters of one task after another on one base: trained on from another's weights, or new over a frozen one.

In the second case both are active in training. They are saved as one adapter of both ranks, on the same base, which any
server loads: with B = [B₁ B₂] and A = [A₁; A₂], BA = B₁A₁ + B₂A₂.

Shapes: R rank, D inputs, O outputs of a layer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.errors import InputError
from rayloom.specs.training.adapters import LoraAdapter

NEW, EARLIER = "default", "earlier"
"""Names of the two adapters in PEFT's layers."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def check_earlier(folder: Path) -> None:
    """Raises InputError if the folder has no LoRA adapter that another can be put over. No weights are loaded."""
    file = folder / CONFIG
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    is_plain = not found.get("use_dora") and not found.get("rank_pattern") and not found.get("alpha_pattern")
    if found.get("peft_type") != "LORA" or not is_plain:
        what = "The earlier adapter is no LoRA of one rank for all its layers"
        raise InputError(what, where=str(folder), fix="Name the result of a training with adapter: {type: lora}.")


def put_over(model: nn.Module, folder: Path) -> nn.Module:
    """A PEFT model with a fresh LoRA adapter, and the one in the folder frozen below it; its task head goes on.

    Raises InputError if the two are not of the same layers.
    """
    from peft import LoraConfig
    from safetensors.torch import load_file

    check_earlier(folder)
    adapted: Any = model
    config = LoraConfig.from_pretrained(str(folder))
    config.modules_to_save = None  # a head is one layer for all tasks, and is the new adapter's
    tuner = adapted.base_model
    tuner.peft_config[EARLIER] = config
    tuner.inject_adapter(tuner.model, EARLIER, autocast_adapter_dtype=False)
    stored = load_file(folder / WEIGHTS)
    parameters = dict(adapted.named_parameters())
    for name, value in stored.items():
        target = parameters.get(_in_layer(name, EARLIER)) if ".lora_" in name else _head(parameters, name)
        if target is None or target.shape != value.shape:
            what = f"The earlier adapter's {name} has no place beside the new one"
            fix = "Give the new adapter the same target_modules, and the task the same labels."
            raise InputError(what, where=str(folder), fix=fix)
        with torch.no_grad():
            target.copy_(value)
    pairs = list(_pairs(adapted))
    if any(len(layer.lora_A) != 2 for layer in pairs):
        what = "The earlier adapter is of other layers than the new one"
        raise InputError(what, where=str(folder), fix="Give the new adapter the same target_modules.")
    for layer in pairs:
        layer.set_adapter([NEW, EARLIER])
        for matrices in (layer.lora_A, layer.lora_B):
            matrices[EARLIER].requires_grad_(False)
    return model


def check_start(folder: Path, adapter: LoraAdapter) -> None:
    """Raises InputError if the adapter in the folder is no LoRA of the wanted rank and scale. No weights are loaded."""
    check_earlier(folder)
    found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    theirs = (found["r"], float(found["lora_alpha"]), bool(found.get("use_rslora")))
    if theirs != (adapter.rank, adapter.scale_alpha, adapter.rank_stabilised) or adapter.weight_decomposed:
        what = "adapter.start_from has another rank, scale or form than `adapter`"
        rank, alpha, is_stabilised = theirs
        stabilised = ", rank_stabilised: true" if is_stabilised else ""
        fix = f"Write adapter: {{type: lora, rank: {rank}, alpha: {alpha:g}{stabilised}, start_from: …}}."
        raise InputError(what, where=str(folder), fix=fix)


def start_from(model: nn.Module, folder: Path) -> nn.Module:
    """A PEFT model whose LoRA adapter has the weights of the one in the folder, its task head too.

    Raises InputError if the two are not of the same layers.
    """
    from safetensors.torch import load_file

    parameters = dict(model.named_parameters())
    stored = load_file(folder / WEIGHTS)
    places = {
        name: parameters.get(_in_layer(name, NEW)) if ".lora_" in name else _head(parameters, name) for name in stored
    }
    strange = [name for name, place in places.items() if place is None or place.shape != stored[name].shape]
    missing = {name for name in parameters if ".lora_" in name} - {_in_layer(name, NEW) for name in stored}
    if strange or missing:
        what = f"adapter.start_from is of other layers than `adapter`: {next(iter(strange or sorted(missing)))}"
        fix = "Give target_modules as that adapter has them, and a task the same labels."
        raise InputError(what, where=str(folder), fix=fix)
    with torch.no_grad():
        for name, place in places.items():
            if place is not None:
                place.copy_(stored[name])
    return model


def has_earlier(model: nn.Module) -> bool:
    """Whether a frozen adapter stands below the one in training."""
    return EARLIER in getattr(model, "peft_config", {})


def overlap(model: nn.Module) -> Tensor:
    """() fp32: Σ ‖A₁ A₂ᵀ‖² over layers, 0 where the new adapter reads nothing that the earlier one read (Wang et al.
    2023, arXiv:2310.14152, equations 7 and 8)."""
    total = torch.zeros((), device=next(model.parameters()).device)
    for layer in _pairs(model):
        earlier, new = layer.lora_A[EARLIER].weight, layer.lora_A[NEW].weight
        total = total + (earlier.float() @ new.float().T).square().sum()
    return total


def joined(model: nn.Module, out: Path) -> None:
    """Makes the saved adapter in a folder, the new one, one of both: ranks are added, and scales are in B."""
    from safetensors.torch import load_file, save_file

    new = load_file(out / WEIGHTS)
    for name, layer in _named_pairs(model):
        first, second = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        dtype, scales = new[first].dtype, layer.scaling
        earlier = [matrices[EARLIER].weight.detach().to("cpu", dtype) for matrices in (layer.lora_A, layer.lora_B)]
        new[first] = torch.cat([earlier[0], new[first]])
        new[second] = torch.cat([earlier[1] * scales[EARLIER], new[second] * scales[NEW]], dim=1).contiguous()
    save_file(new, out / WEIGHTS, metadata={"format": "pt"})
    found: dict[str, Any] = json.loads((out / CONFIG).read_text(encoding="utf-8"))
    rank = sum(model.peft_config[name].r for name in (NEW, EARLIER))  # type: ignore[union-attr, index]
    found |= {"r": rank, "lora_alpha": rank, "use_rslora": False}
    (out / CONFIG).write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _in_layer(stored: str, adapter: str) -> str:
    """`….lora_A.weight` of a file as the model calls it: `….lora_A.earlier.weight`."""
    before, _, last = stored.rpartition(".")
    return f"{before}.{adapter}.{last}"


def _head(parameters: Mapping[str, nn.Parameter], stored: str) -> nn.Parameter | None:
    layer, _, last = stored.rpartition(".")
    return parameters.get(f"{layer}.modules_to_save.{NEW}.{last}")


def _named_pairs(model: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, layer) for name, layer in model.named_modules() if len(getattr(layer, "lora_A", ())) > 0)


def _pairs(model: nn.Module) -> Iterator[Any]:
    return (layer for _, layer in _named_pairs(model))
