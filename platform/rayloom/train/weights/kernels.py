"""What computes a model's layers instead of torch's own operations: Liger's kernels, and products in float8.

Parameters and their names stay as they are. Liger (Hsu et al. 2024, arXiv:2410.10989) computes RMSNorm, rotary
positions and SwiGLU; its loss is not used, as `score.label_loss` keeps no logits either.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rayloom.errors import InputError, ResourceError
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.kernels import Float8

if TYPE_CHECKING:
    import torch
    from torch import nn

LIGER_MODELS = ("llama", "mistral", "qwen2", "qwen3")
"""Those that are tested to give the same losses and gradients (tests/unit/test_kernels.py)."""
FLOAT8_CAPABILITY = (8, 9)
"""Compute capability of the first GPUs that multiply in float8."""
FLOAT8_MULTIPLE = 16
"""Both sizes of a matrix must be multiples of it."""


def missing_kernels(spec: TrainSpec) -> list[str]:
    """One sentence for each package that the spec's kernels need and that is not installed here."""
    needed = [("kernels liger", "liger_kernel", "liger-kernel")] if spec.kernels == "liger" else []
    needed += [("float8", "torchao", "torchao")] if spec.float8 is not None else []
    return [
        f"{asked} needs the package {package}: pip install --no-deps {package}, or leave {asked.split()[0]} out"
        for asked, module, package in needed
        if importlib.util.find_spec(module) is None
    ]


def check_kernels(spec: TrainSpec, config: Any) -> None:
    """Raises InputError if the spec's kernels are not for a model of this configuration."""
    if spec.kernels == "liger":
        fix = "Leave kernels out, or compile."
        if config.model_type not in LIGER_MODELS:
            raise InputError(f"kernels liger is for {', '.join(LIGER_MODELS)}, not for {config.model_type}", fix=fix)
        if config.hidden_act != "silu":
            raise InputError(f"kernels liger has no gate of {config.hidden_act}, only of silu", fix=fix)
    if spec.float8 is not None:
        if config.hidden_size % FLOAT8_MULTIPLE:
            what = (
                f"float8 needs sizes that are multiples of {FLOAT8_MULTIPLE}, and hidden_size is {config.hidden_size}"
            )
            raise InputError(what, fix="Leave float8 out.")
        if getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None):
            raise InputError("float8 is for linear layers, and a mixture's experts are none", fix="Leave float8 out.")


def check_device(spec: TrainSpec, device: torch.device) -> None:
    """Raises ResourceError if the spec's kernels cannot run on this device."""
    asked = "kernels" if spec.kernels != "torch" else "float8" if spec.float8 is not None else None
    if asked is None:
        return
    missing = missing_kernels(spec)
    if missing:
        raise ResourceError(missing[0])
    fix = f"Give workers another one, or leave {asked} out."
    if device.type != "cuda":
        raise ResourceError(f"{asked} needs a GPU, and this worker has none", where=str(device), fix=fix)
    import torch

    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    if spec.float8 is not None and capability < FLOAT8_CAPABILITY:
        raise ResourceError("This GPU does not multiply in float8", where=name, fix=fix)


def use_liger(model: nn.Module) -> None:
    """Replaces what the model's norms and feed-forward layers compute, and how queries and keys are rotated.

    Liger also replaces transformers' classes of the model's type. They are put back, so that models made later, such as
    a teacher, are transformers' own; only the rotation remains for all models of the type in this process.
    """
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    from transformers import PreTrainedModel

    whole = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    modeling = vars(sys.modules[type(whole).__module__])
    before = dict(modeling)
    apply = MODEL_TYPE_TO_APPLY_LIGER_FN[whole.config.model_type]
    apply(model=whole, cross_entropy=False, fused_linear_cross_entropy=False)
    modeling.update(before | {"apply_rotary_pos_emb": modeling["apply_rotary_pos_emb"]})


def use_float8(layers: Iterable[nn.Module], recipe: Float8, *, is_emulated: bool = False) -> int:
    """Lets linear layers inside these multiply in float8, forward and backward, and returns how many do so.

    Those with a size that is no multiple of 16 stay as they are. Weights and activations are rounded at each product,
    so neither they nor what is kept for the backward pass change. `is_emulated`: round so, and multiply in the
    precision of the weights, on any device.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    from torchao.float8.float8_linear import Float8Linear

    # The number of tokens, the inner size of a weight's gradient, is filled up with zeros where it is no multiple.
    config = replace(Float8LinearConfig.from_recipe_name(recipe), pad_inner_dim=True, emulate=is_emulated)
    count = 0
    for layer in layers:
        convert_to_float8_training(layer, config=config, module_filter_fn=_is_multiple)
        count += sum(isinstance(module, Float8Linear) for module in layer.modules())
    if not count:
        what = f"No linear layer of this model has sizes that are multiples of {FLOAT8_MULTIPLE}"
        raise InputError(what, fix="Leave float8 out.")
    return count


def _is_multiple(layer: nn.Linear, _: str) -> bool:
    return not (layer.in_features % FLOAT8_MULTIPLE or layer.out_features % FLOAT8_MULTIPLE)
