"""Liger's kernels in a model's layers (Hsu et al. 2024, arXiv:2410.10989): RMSNorm, rotary positions and SwiGLU.

Parameters and their names stay as they are. Its loss is not used: `score.label_loss` keeps no logits either.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from rayloom.errors import InputError, ResourceError
from rayloom.specs.train import TrainSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Those that are tested to give the same losses and gradients (tests/unit/test_kernels.py)."""
PACKAGE = "liger_kernel"


def missing_kernels(spec: TrainSpec) -> list[str]:
    """A sentence if the spec's kernels are not installed here: what is missing and what to do."""
    if spec.kernels == "torch" or importlib.util.find_spec(PACKAGE) is not None:
        return []
    return ["kernels liger needs the package liger-kernel: pip install --no-deps liger-kernel, or leave kernels out"]


def check_kernels(spec: TrainSpec, config: Any) -> None:
    """Raises InputError if the spec's kernels are not for a model of this configuration."""
    if spec.kernels == "torch":
        return
    fix = "Leave kernels out, or compile."
    if config.model_type not in MODEL_TYPES:
        raise InputError(f"kernels liger is for {', '.join(MODEL_TYPES)}, not for {config.model_type}", fix=fix)
    if config.hidden_act != "silu":
        raise InputError(f"kernels liger has no gate of {config.hidden_act}, only of silu", fix=fix)


def check_device(spec: TrainSpec, device: torch.device) -> None:
    """Raises ResourceError if the spec's kernels cannot run on this device."""
    missing = missing_kernels(spec)
    if missing:
        raise ResourceError(missing[0])
    if spec.kernels != "torch" and device.type != "cuda":
        what = "kernels liger needs a GPU, and this worker has none"
        raise ResourceError(what, where=str(device), fix="Give workers one, or leave kernels out.")


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
