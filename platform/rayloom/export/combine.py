"""Combines several LoRA adapters of one base into one with PEFT's `add_weighted_adapter`, before it is merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rayloom.artifacts.lineage import base_of
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.export.adapters import AdapterFolder, check_values
from rayloom.export.model_folder import first_line
from rayloom.specs.export import Combination

COMBINED = "combined"
_PEFTS_NAMES = {"sum": "cat"}
"""PEFT's name of a method, if it differs from ours."""


def others(combination: Combination, parents: Mapping[str, Artifact], base: Artifact, store: Store) -> list[Artifact]:
    """The other adapters to combine. Raises InputError if one was trained on another base."""
    found = [parents[f"combine.others.{number}.adapter"] for number in range(len(combination.others))]
    for artifact in found:
        base_of(artifact, base, store)
    return found


def add_others(tuned: Any, combination: Combination, first: AdapterFolder, further: list[Artifact]) -> None:
    """Makes the combination the active adapter. Raises InputError if an adapter does not fit or PEFT cannot combine."""
    names = ["default"]
    for number, artifact in enumerate(further):
        folder = AdapterFolder.of(artifact.path)
        check_values(folder)
        _check_same_kind(first, folder, artifact)
        names.append(f"other-{number}")
        loaded = tuned.load_adapter(str(artifact.path), names[-1])
        if loaded.unexpected_keys or loaded.missing_keys:
            raise InputError(f"{artifact.id} does not fit this base", where=str(artifact.path))
    for name in names:
        # The layers' scaling already contains rsLoRA's factor; with the flag set, PEFT would apply it a second time.
        tuned.peft_config[name].use_rslora = False
    weights = [combination.weight, *(other.weight for other in combination.others)]
    # DARE drops values at random.
    torch.manual_seed(combination.seed)
    try:
        tuned.add_weighted_adapter(
            names,
            weights,
            COMBINED,
            combination_type=_PEFTS_NAMES.get(combination.method, combination.method),
            density=combination.density,
        )
    except ValueError as error:
        what = f"PEFT cannot combine these adapters by {combination.method}: {first_line(error)}"
        raise InputError(what, where="combine", fix="Use method: sum, which takes adapters of any rank.") from None
    tuned.set_adapter(COMBINED)


def _check_same_kind(first: AdapterFolder, other: AdapterFolder, artifact: Artifact) -> None:
    for folder in (first, other):
        if folder.method != "LORA" or folder.config.get("use_dora"):
            what = f"{folder.described}: only plain LoRA adapters are combined"
            raise InputError(what, where=artifact.id, fix="Merge it alone, or train it as LoRA.")
