"""W8A8 linear layers in INT8 arithmetic, as the server computes them.

transformers decompresses such a model at the first forward pass and simulates the quantisation of activations in
floating point. Here INT8 matrices are multiplied, as in vLLM's kernels. So measurements are of the served model, in
half the time and memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rayloom.models.processor import multiplies_int8

_LARGEST = 127


class Int8Linear(nn.Module):
    """y = (x_int8 · Wᵀ_int8) × scale of the token × scale of the output channel (+ bias).

    Weights are INT8 with one scale for each output channel. Activations are scaled by each token's largest absolute
    value, or by a fixed scale from calibration.
    """

    def __init__(
        self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, input_scale: Tensor | None = None
    ) -> None:
        """`weight` (O, I) int8, `weight_scale` (O, 1), `input_scale` (1,) if it is fixed."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        self.weight_scale = nn.Parameter(weight_scale.reshape(-1).float(), requires_grad=False)
        self.bias = nn.Parameter(bias.float(), requires_grad=False) if bias is not None else None
        fixed = None if input_scale is None else nn.Parameter(input_scale.float(), requires_grad=False)
        self.input_scale = fixed

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.in_features).float()
        scale: Tensor | None = self.input_scale
        if scale is None:
            scale = flat.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / _LARGEST
        quantized = (flat / scale).round().clamp(-_LARGEST - 1, _LARGEST).to(torch.int8)
        y = _int8_matmul(quantized, self.weight).float() * scale * self.weight_scale
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)


def _int8_matmul(x: Tensor, weight: Tensor) -> Tensor:
    """(M, O) int32, or fp32 on a CPU without INT8 instructions. CUDA's kernel needs over 16 rows, so fewer are padded.

    fp32 sums of fewer than 2^24 / 127² products are the same integers; larger ones round as they do in the next step.
    """
    if x.is_cpu and not multiplies_int8():
        return x.float() @ weight.float().t()
    missing = 17 - len(x) if x.is_cuda else 0
    if missing > 0:
        x = nn.functional.pad(x, (0, 0, 0, missing))
    product = torch._int_mm(x, weight.t())
    return product[:-missing] if missing > 0 else product


def use_int8_arithmetic(model: nn.Module) -> int:
    """Replaces the W8A8 layers of a newly loaded compressed-tensors model by Int8Linear; returns their number."""
    replaced = 0
    for name, module in list(model.named_modules()):
        if is_w8a8(module):
            parent = model.get_submodule(name.rpartition(".")[0])
            fixed = getattr(module, "input_scale", None)
            served = Int8Linear(module.weight, module.weight_scale, module.bias, fixed)
            setattr(parent, name.rpartition(".")[2], served)
            replaced += 1
    if replaced:
        quantizer: Any = model.hf_quantizer
        quantizer.compressor.remove_decompression_hook(model)
    return replaced


def is_w8a8(module: nn.Module) -> bool:
    """Whether a layer has per-channel INT8 weights, and INT8 activations with per-token or fixed per-tensor scales."""
    scheme: Any = getattr(module, "quantization_scheme", None)
    if not isinstance(module, nn.Linear) or scheme is None or scheme.input_activations is None:
        return False
    weights, inputs = scheme.weights, scheme.input_activations
    return bool(
        module.weight.dtype == torch.int8
        and weights.symmetric
        and weights.strategy == "channel"
        and inputs.num_bits == 8
        and inputs.type == "int"
        and inputs.symmetric
        and (inputs.strategy, bool(inputs.dynamic)) in (("token", True), ("tensor", False))
    )
