"""The training job behind an artifact's weights: its own, or that of a search's best trial."""

from __future__ import annotations

from typing import Any

from rayloom.artifacts.manifest import Manifest
from rayloom.specs.search.space import substituted


def training_of(manifest: Manifest) -> dict[str, Any]:
    """The training job as plain values; of an artifact that was not trained, its own spec."""
    if manifest.kind != "tune":
        return manifest.spec
    return substituted(manifest.spec["train"], manifest.metrics["best"]["values"])


def field_in_training(field: str) -> str:
    """The path of a reference within the training job: `train.base` of a search is the `base` of its trials."""
    return field.removeprefix("train.")
