"""W8A8 in FP8: weights in E4M3 with a scale for each output, activations scaled by token while running."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from compressed_tensors.quantization import QuantizationScheme, preset_name_to_scheme
from torch import nn

from rayloom.export.schemes.compressed import StoredLayer
from rayloom.export.schemes.rounding import scales_for

LARGEST = torch.finfo(torch.float8_e4m3fn).max


def configuration() -> QuantizationScheme:
    """As compressed-tensors writes it."""
    return preset_name_to_scheme("FP8_DYNAMIC", ["Linear"])


def fp8_layers(layers: Mapping[str, nn.Linear], keep: Callable[[str, StoredLayer], None]) -> None:
    """Gives `keep` each layer as it is stored: (O, I) float8 and its (O, 1) scales."""
    for name, layer in layers.items():
        weight = layer.weight.detach().float()
        scales = scales_for(weight.abs().amax(dim=1, keepdim=True), LARGEST, layer.weight.dtype)
        # A scale that bf16 rounded down would push the largest weight over the edge, where E4M3 has only NaN.
        values = (weight / scales.float()).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
        keep(name, {"weight": values, "weight_scale": scales})
