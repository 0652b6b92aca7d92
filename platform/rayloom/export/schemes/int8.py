"""W8A8: INT8 weights with a scale per output channel; INT8 activations, dynamic per token or static; SmoothQuant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, preset_name_to_scheme
from torch import nn

from rayloom.export.quality.heldout_rows import CalibrationRows
from rayloom.export.schemes.calibration import observe
from rayloom.export.schemes.compressed import StoredLayer, round_channels
from rayloom.models.processor import weights_in_fast_precision
from rayloom.specs.export import Int8Scheme

if TYPE_CHECKING:
    from transformers import PreTrainedModel
from collections.abc import Sequence

from torch import Tensor

from rayloom.export.schemes.calibration import Observed

LARGEST = 127


def configuration(scheme: Int8Scheme) -> QuantizationScheme:
    """The scheme in compressed-tensors' form."""
    # vLLM does not match its output head as "Linear"; it must be named.
    preset = preset_name_to_scheme("W8A8", ["Linear", "re:.*lm_head"] if scheme.head else ["Linear"])
    if scheme.activations == "static":
        preset.input_activations = QuantizationArgs(num_bits=8, type="int", strategy="tensor", symmetric=True)
    return preset


def int8_layers(
    model: PreTrainedModel,
    layers: Mapping[str, nn.Linear],
    scheme: Int8Scheme,
    rows: CalibrationRows | None,
    keep: Callable[[str, StoredLayer], None],
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Quantises each layer and passes it to `keep`. Smoothing changes the norms of `model` in place.

    `rows`: calibration rows, if the scheme needs them.
    """
    factors: dict[str, torch.Tensor] = {}
    largest: dict[str, torch.Tensor] = {}
    if rows is not None:
        with weights_in_fast_precision(model):
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


# SmoothQuant (Xiao et al. 2022): moves outliers from activations, which INT8 represents badly, into weights.
#
# A channel of a norm's output is divided by a factor, and the same channel of the weights that read it is multiplied by
# it. The model's result does not change, and activations have fewer outliers.
#
# Shapes: I channels, O outputs.


@torch.no_grad()
def smooth(model: nn.Module, layers: Mapping[str, nn.Linear], seen: Observed, strength: float) -> dict[str, Tensor]:
    """Divides the weights of the model's norms in place; returns (I,) factors for the layers that read them, by name.

    `strength`: the paper's alpha; 1 moves all of the activations' range into the weights.
    """
    factors: dict[str, Tensor] = {}
    for name, readers in seen.readers.items():
        norm = model.get_submodule(name)
        if not scales_with_its_weight(norm):
            continue
        wanted = _factors(seen.largest[readers[0]], [layers[reader].weight for reader in readers], strength)
        applied = _divide(norm, wanted)
        factors |= dict.fromkeys(readers, applied)
    return factors


def _factors(largest_inputs: Tensor, weights: Sequence[Tensor], strength: float) -> Tensor:
    largest_weights = torch.stack([weight.float().abs().amax(dim=0) for weight in weights]).amax(dim=0)
    smallest = torch.finfo(torch.bfloat16).tiny
    return (largest_inputs.clamp(min=smallest) ** strength) / (largest_weights.clamp(min=smallest) ** (1 - strength))


def _divide(norm: nn.Module, wanted: Tensor) -> Tensor:
    """Divides the norm's weight (and bias) by `wanted`; returns the factors that were applied after rounding.

    They are computed from the new weight in the model's precision, so that its rounding adds no error.
    """
    weight = norm.weight
    assert isinstance(weight, Tensor)
    divided = (weight.float() / wanted).to(weight.dtype)
    usable = (divided != 0) & torch.isfinite(divided)
    divided = torch.where(usable, divided, weight)
    applied = torch.where(usable, weight.float() / divided.float(), torch.ones_like(wanted))
    weight.copy_(divided)
    bias = getattr(norm, "bias", None)
    if isinstance(bias, Tensor):
        bias.copy_((bias.float() / applied).to(bias.dtype))
    return applied


@torch.no_grad()
def scales_with_its_weight(norm: nn.Module) -> bool:
    """Whether halving the weight (and bias) halves the output. Not so for Gemma's norms, which add 1 to the weight."""
    kept = {name: parameter.clone() for name, parameter in norm.named_parameters()}
    size = len(next(iter(kept.values())))
    dtype = next(iter(kept.values())).dtype
    probe = torch.linspace(-2, 3, size).to(dtype)[None]
    whole = norm(probe)
    for parameter in norm.parameters():
        parameter.mul_(0.5)
    half = norm(probe)
    for name, parameter in norm.named_parameters():
        parameter.copy_(kept[name])
    return torch.equal(half * 2, whole)
