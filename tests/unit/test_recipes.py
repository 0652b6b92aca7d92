"""Every recipe is a job file that `rayloom check` accepts, and each fine-tuning method and task has one."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from rayloom.dispatch import load_job
from rayloom.specs.adapters import Adapter
from rayloom.specs.preferences import Preference
from rayloom.specs.train import TrainSpec

RECIPES = sorted((Path(__file__).parents[2] / "jobs/recipes").rglob("*.yaml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_recipe_is_right(file: Path) -> None:
    load_job(file)


def test_every_method_of_preference_and_adapter_has_a_recipe() -> None:
    specs = [job.spec for job in map(load_job, RECIPES) if isinstance(job.spec, TrainSpec)]
    adapters = {variant.model_fields["type"].annotation.__args__[0] for variant in get_args(get_args(Adapter)[0])}  # type: ignore[union-attr]
    assert adapters - {spec.adapter.type for spec in specs} <= {"parts"}
    methods = {variant.model_fields["type"].annotation.__args__[0] for variant in get_args(get_args(Preference)[0])}  # type: ignore[union-attr]
    assert methods == {spec.preference.type for spec in specs if spec.preference is not None}
