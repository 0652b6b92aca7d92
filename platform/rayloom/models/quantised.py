"""Bases with weights in 4 or 8 bits, for training adapters on them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rayloom.models.adapters import HEADS

Precision = Literal["nf4", "int8"]
NEVER_QUANTISED = (*HEADS, "pooler.dense")
"""Modules that are not quantised, besides the output layer: a base may lack them, so there is nothing to quantise."""


def quantising(precision: Precision, compute_dtype: torch.dtype) -> Any:
    """transformers' configuration for quantising a base while it is loaded.

    nf4: 4-bit NormalFloat with double quantisation (Dettmers et al. 2023, arXiv:2305.14314). int8: vector-wise 8 bits
    (Dettmers et al. 2022, arXiv:2208.07339). Embeddings, norms and output layer stay as they are.
    """
    from rayloom.pretrained import BitsAndBytesConfig

    # It would warn about its casts for every layer at every step.
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(lambda record: "MatMul8bitLt" not in record.msg)
    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def load_quantised(model_class: Any, folder: Path, precision: Precision, compute_dtype: torch.dtype) -> nn.Module:
    """A model of transformers' `model_class` with its linear layers quantised, on this process' device."""
    device: Any = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    model: nn.Module = model_class.from_pretrained(
        folder,
        quantization_config=quantising(precision, compute_dtype),
        dtype=compute_dtype,
        device_map={"": device},
        use_safetensors=True,
    )
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # In evaluation, bitsandbytes would permanently repack the weights for a kernel without a backward pass:
            # after the first held-out loss, these layers would pass no gradients.
            module.support_avx512bf16_for_cpu = False
    for parameter in model.parameters():
        if parameter.untyped_storage().nbytes() > parameter.nbytes:
            # An unquantised weight is a view of the whole file, which would stay in memory.
            parameter.data = parameter.data.clone()
    return model


def num_quantised(model: nn.Module) -> int:
    """Number of weights that `load_quantised` quantises: those of frozen linear layers that are not part of a head."""
    output: Any = model.get_output_embeddings()  # type: ignore[operator]
    return sum(
        layer.weight.numel()
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        and layer is not output
        and not layer.weight.requires_grad
        and not any(part in name for part in NEVER_QUANTISED)
    )


def stored_bytes(module: nn.Module) -> int:
    """Bytes of all weights, including the scales and code tables of quantised ones."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(module))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    for parameter in module.parameters():
        yield parameter.data
        state: Any = getattr(parameter, "quant_state", None)
        for part in (state, getattr(state, "state2", None)):
            yield from (t for t in (getattr(part, "absmax", None), getattr(part, "code", None)) if t is not None)
        scales = getattr(parameter, "SCB", None)
        if isinstance(scales, Tensor):
            yield scales
