"""W8A8: INT8 weights by output channel; INT8 activations, scaled by token while running or by layer beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, preset_name_to_scheme
from torch import nn

from rayloom.export.quality.heldout_rows import CalibrationRows
from rayloom.export.schemes.calibration import observe
from rayloom.export.schemes.compressed import StoredLayer
from rayloom.export.schemes.rounding import round_channels
from rayloom.export.schemes.smoothing import smooth
from rayloom.specs.export import Int8Scheme

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LARGEST = 127


def configuration(scheme: Int8Scheme) -> QuantizationScheme:
    """As compressed-tensors writes it."""
    # vLLM takes its head for a linear layer only where it is named.
    found = preset_name_to_scheme("W8A8", ["Linear", "re:.*lm_head"] if scheme.head else ["Linear"])
    if scheme.activations == "static":
        found.input_activations = QuantizationArgs(num_bits=8, type="int", strategy="tensor", symmetric=True)
    return found


def int8_layers(
    model: PreTrainedModel,
    layers: Mapping[str, nn.Linear],
    scheme: Int8Scheme,
    rows: CalibrationRows | None,
    keep: Callable[[str, StoredLayer], None],
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Gives `keep` each layer as it is stored. Smoothing divides the norms of `model` in place.

    `rows`: calibration rows, where the scheme needs them.
    """
    factors: dict[str, torch.Tensor] = {}
    largest: dict[str, torch.Tensor] = {}
    if rows is not None:
        seen = observe(model, layers, rows, advance)
        largest = seen.largest
        if scheme.smoothing is not None:
            factors = smooth(model, layers, seen, scheme.smoothing)
    for name, layer in layers.items():
        factor = factors.get(name)
        weight = layer.weight.detach().float()
        rounded = round_channels(weight if factor is None else weight * factor, layer.weight.dtype)
        stored = {"weight": rounded.values, "weight_scale": rounded.scales}
        if scheme.activations == "static":
            top = (largest[name] if factor is None else largest[name] / factor).max()
            stored["input_scale"] = (top / LARGEST).reshape(1).to(layer.weight.dtype)
        keep(name, stored)
