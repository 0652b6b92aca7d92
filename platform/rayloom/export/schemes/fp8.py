"""W8A8 in FP8 (E4M3): weights with a scale per output channel, activations with a dynamic scale per token."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from compressed_tensors.quantization import QuantizationScheme, preset_name_to_scheme
from torch import nn

from rayloom.export.schemes.compressed import StoredLayer, scales_for

LARGEST = torch.finfo(torch.float8_e4m3fn).max


def configuration() -> QuantizationScheme:
    """The scheme in compressed-tensors' form."""
    return preset_name_to_scheme("FP8_DYNAMIC", ["Linear"])


def fp8_layers(layers: Mapping[str, nn.Linear], keep: Callable[[str, StoredLayer], None]) -> None:
    """Quantises each layer and passes it to `keep`: (O, I) float8 values and (O, 1) scales."""
    for name, layer in layers.items():
        weight = layer.weight.detach().float()
        scales = scales_for(weight.abs().amax(dim=1, keepdim=True), LARGEST, layer.weight.dtype)
        # If bf16 rounded the scale down, the largest weight would overflow E4M3, which would give NaN.
        values = (weight / scales.float()).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
        keep(name, {"weight": values, "weight_scale": scales})
