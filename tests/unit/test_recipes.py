"""Every recipe is a job file that `rayloom check` accepts, and each fine-tuning method and task has one.

Those for fleets are planned too, with small artifacts in the place of what they name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from support.models import made, write_model
from support.preferences import write_reward_model
from support.tokenizers import chatml
from support.training_jobs import write_rows

from rayloom.artifacts.store import Store
from rayloom.dispatch import load_job
from rayloom.specs.base import references
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.adapters import Adapter
from rayloom.specs.training.preferences import Preference
from rayloom.text.tokenizer_files import tokenizer_digest
from rayloom.train.plan import plan

RECIPES = sorted((Path(__file__).parents[2] / "jobs/recipes").rglob("*.yaml"))
FOR_FLEETS = [file for file in RECIPES if file.stem.endswith("h100")]


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_recipe_is_right(file: Path) -> None:
    load_job(file)


def test_every_method_of_preference_and_adapter_has_a_recipe() -> None:
    specs = [job.spec for job in map(load_job, RECIPES) if isinstance(job.spec, TrainSpec)]
    adapters = {variant.model_fields["type"].annotation.__args__[0] for variant in get_args(get_args(Adapter)[0])}  # type: ignore[union-attr]
    assert adapters - {spec.adapter.type for spec in specs} <= {"parts"}
    methods = {variant.model_fields["type"].annotation.__args__[0] for variant in get_args(get_args(Preference)[0])}  # type: ignore[union-attr]
    assert methods == {spec.preference.type for spec in specs if spec.preference is not None}


@pytest.mark.parametrize("file", FOR_FLEETS, ids=lambda file: file.stem)
def test_a_recipe_for_a_fleet_fits_it_and_wastes_nothing(file: Path, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))

    def corpus(folder: Path) -> None:
        chatml().save_pretrained(folder / "tokenizer")
        for name in ("train", "heldout"):
            write_rows(folder / name, 1000, seed=0, digest=tokenizer_digest(chatml()))

    prompts = "\n".join(json.dumps({"prompt": f"Tell me {n} jokes", "answer": "1"}) for n in range(500))
    spec = load_job(file).spec
    assert isinstance(spec, TrainSpec)
    parents = {
        reference.path: made(store, "base", "model", lambda folder: write_model(folder, max_position_embeddings=4096))
        if reference.path == "base"
        else made(store, "prompts", "dataset", lambda folder: (folder / "x.jsonl").write_text(prompts))
        if reference.path.startswith("data.sources")
        else made(store, "judge", "model", write_reward_model)
        if reference.path.startswith("rewards")
        else made(store, "corpus", "corpus", corpus)
        for reference in references(spec)
    }
    sheet = plan(spec, parents, tmp_path)
    assert sheet.problems == []
    facts = dict(sheet.facts)
    assert "H100-80GB, 989 TFLOP/s" in facts["hardware"]
    assert "devices, if they reach 40%" in facts["time"]
    assert not [line for line in sheet.warnings if "fill" in line or "would have no worker" in line]
