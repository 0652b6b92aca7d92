"""W4A16: INT4 weights with a scale per group of inputs, activations in 16 bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationScheme, preset_name_to_scheme
from torch import Tensor, nn

from rayloom.errors import InputError
from rayloom.export.quality.heldout_rows import CalibrationRows
from rayloom.export.schemes.blocks import blocks_of, fit_blocks
from rayloom.export.schemes.compressed import StoredLayer
from rayloom.export.schemes.gptq import GroupedWeight, gptq, round_to_nearest
from rayloom.specs.export import Int4Scheme

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROUP_SIZES = (128, 64, 32)
"""Usual group sizes; small groups need more space, large ones reduce quality."""
SIDE_MULTIPLE = 32
"""vLLM's kernels need both dimensions of a layer to be multiples of it."""


def configuration(group_size: int) -> QuantizationScheme:
    """The scheme in compressed-tensors' form."""
    preset = preset_name_to_scheme("W4A16", ["Linear"])
    assert preset.weights is not None
    preset.weights.group_size = group_size
    return preset


def group_size_for(scheme: Int4Scheme, shapes: Iterable[tuple[int, ...]]) -> int:
    """The scheme's own group size, or the first of `GROUP_SIZES` that divides the inputs of every layer.

    `shapes`: (outputs, inputs) of each layer. Raises InputError if none fits.
    """
    sides = {side for shape in shapes for side in shape}
    odd = sorted(side for side in sides if side % SIDE_MULTIPLE)
    inputs = sorted({shape[1] for shape in shapes})
    if odd:
        what = f"INT4 needs layers whose sides are multiples of {SIDE_MULTIPLE}, and this model has sides of {odd}"
        raise InputError(what, where="scheme", fix="Use scheme int8 for this model.")
    usual = (scheme.group_size,) if scheme.group_size is not None else GROUP_SIZES
    for size in usual:
        if all(width % size == 0 for width in inputs):
            return size
    fitting = [size for size in GROUP_SIZES if all(width % size == 0 for width in inputs)]
    what = f"Groups of {usual[0]} do not divide layers with {inputs} inputs"
    raise InputError(what, where="scheme.group_size", fix=f"Leave it out, or use one of {fitting}.")


def int4_layers(
    model: PreTrainedModel,
    layers: Mapping[str, nn.Linear],
    scheme: Int4Scheme,
    rows: CalibrationRows | None,
    keep: Callable[[str, StoredLayer], None],
    advance: Callable[[int], None],
) -> None:
    """Quantises each layer and passes it to `keep`.

    `rows`: calibration rows, for GPTQ. Blocks are then fitted in order, on the GPU if there is one, and the weights of
    each are freed after it: in memory are the rest of the model, one dequantised block, and the products of one layer's
    inputs. See `gptq.peak_bytes` for a layer's own peak.
    """
    group_size = group_size_for(scheme, [tuple(layer.weight.shape) for layer in layers.values()])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    done: set[str] = set()
    in_block: list[nn.Linear] = []

    def fit(name: str, layer: nn.Linear, products: Tensor) -> None:
        rounded = gptq(layer.weight.detach(), products, group_size, layer.weight.dtype)
        keep(name, _stored(rounded))
        done.add(name)
        # A new tensor: the old one is memory-mapped from the model's file.
        layer.weight = nn.Parameter(rounded.restored().to(layer.weight.dtype), requires_grad=False)
        in_block.append(layer)

    def leave_block(count: int) -> None:
        for layer in in_block:  # no later block reads them
            layer.weight = nn.Parameter(layer.weight.new_empty(0), requires_grad=False)
        in_block.clear()
        advance(count)

    if rows is not None:
        inside = tuple(f"{block}." for block in blocks_of(model, layers))
        in_blocks = {name: layer for name, layer in layers.items() if name.startswith(inside)}
        fit_blocks(model, in_blocks, rows, fit, leave_block, device)
    for name, layer in layers.items():
        if name not in done:  # no calibration, or a layer outside the blocks or that no row reached
            weight = layer.weight.detach().to(device)
            keep(name, _stored(round_to_nearest(weight, group_size, weight.dtype)))


def _stored(rounded: GroupedWeight) -> StoredLayer:
    return {
        "weight_packed": pack_to_int32(rounded.values.cpu(), 4),
        "weight_scale": rounded.scales.cpu(),
        "weight_shape": torch.tensor(rounded.values.shape),
    }
