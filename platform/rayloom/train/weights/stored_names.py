"""Which tensors of a model's files make each of its parameters.

transformers keeps the experts of a mixture as one tensor, and most files have a tensor for each matrix of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from rayloom.models.weight_files import StoredTensor

PIECES = {"gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")), "down_proj": (("down_proj",), ("w2",))}
"""Matrices that follow each other in a tensor of experts, as Qwen and OLMoE, and as Mixtral call them in files."""
IN_MODEL, IN_FILES = ".mlp.", ".block_sparse_moe."
"""What Mixtral's files call it."""


def stored_parameters(
    model: nn.Module, stored: Mapping[str, StoredTensor]
) -> Iterator[tuple[nn.Parameter, list[str] | None]]:
    """Each parameter of the base, and the tensors whose values, one after the other, are its own; None if there are no
    such ones."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if ".lora_" not in name:
            plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            names.setdefault(parameter, []).extend([plain, plain.replace(IN_MODEL, IN_FILES)])
    for parameter, spellings in names.items():  # tied ones have several
        found = (_found(name, parameter, stored) for name in spellings)
        yield parameter, next((one for one in found if one), None)


def _found(name: str, parameter: nn.Parameter, stored: Mapping[str, StoredTensor]) -> list[str] | None:
    if name in stored and stored[name].shape == parameter.shape:
        return [name]
    before, _, last = name.rpartition(".")
    for pieces in PIECES.get(last, ()) if parameter.dim() == 3 else ():
        shape = (parameter.shape[1] // len(pieces), parameter.shape[2])
        names = [f"{before}.{expert}.{piece}.weight" for expert in range(len(parameter)) for piece in pieces]
        if all(one in stored and stored[one].shape == shape for one in names):
            return names
    return None
