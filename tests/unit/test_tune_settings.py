"""A training job that takes its values from a search: which it takes, and what it says where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.searches import tune_spec

from rayloom.errors import InputError, SpecError
from rayloom.specs.train import TrainSpec
from rayloom.tune.results import with_best_values


def search(folder: Path, values: dict[str, Any]) -> Any:
    (folder / "best_values.json").write_text(json.dumps({"trial": 3, "values": values}))
    found = SimpleNamespace(path=folder, id="search@0123", manifest=SimpleNamespace(kind="tune"))
    return {"settings_from": found}


def asking(spec: TrainSpec) -> TrainSpec:
    return spec.model_copy(update={"settings_from": "artifact:search"})


def test_the_best_values_replace_those_in_the_file(tmp_path: Path) -> None:
    spec = tune_spec().train
    settled = with_best_values(
        asking(spec), search(tmp_path, {"learning_rate": 1e-3, "adapter.rank": 8, "adapter.alpha": 32})
    )
    assert (settled.learning_rate, settled.adapter.model_dump()["rank"], settled.adapter.model_dump()["alpha"]) == (
        1e-3,
        8,
        32,
    )
    assert settled.model_dump(exclude={"learning_rate", "adapter", "settings_from"}) == spec.model_dump(
        exclude={"learning_rate", "adapter", "settings_from"}
    )


def test_values_that_do_not_fit_the_job_are_said(tmp_path: Path) -> None:
    spec = tune_spec(
        train={"adapter": {"type": "none"}}, space={"learning_rate": {"type": "choice", "values": [1e-3]}}
    ).train
    with pytest.raises(SpecError, match=r"search@0123 do not fit the training job tuned") as refused:
        with_best_values(asking(spec), search(tmp_path, {"adapter.rank": 8}))
    assert refused.value.problems == ("adapter.rank: unknown key where type is none; the keys here are type",)


def test_an_artifact_that_is_no_search_is_said(tmp_path: Path) -> None:
    artifact: Any = SimpleNamespace(path=tmp_path, id="words@0123", manifest=SimpleNamespace(kind="clean"))
    with pytest.raises(InputError, match="settings_from needs a search, but words@0123 is a clean"):
        with_best_values(asking(tune_spec().train), {"settings_from": artifact})
