"""An artifact of a search stands for its best trial's training, wherever training artifacts are used."""

from __future__ import annotations

from typing import Any

from support.searches import tune_spec

from rayloom.artifacts.lineage import recorded_base, training_of
from rayloom.artifacts.manifest import Manifest, Parent
from rayloom.artifacts.store import Artifact, Store


def manifest(kind: str, spec: dict[str, Any], metrics: dict[str, Any], field: str) -> Manifest:
    base = Parent(field=field, name="small", version="0" * 12, digest="d")
    return Manifest(
        kind=kind, name="x", version="1" * 12, content="adapter", created_at="", seconds=1, spec=spec, stage_version=1,
        parents=(base,), licences=(), code_version="0", packages={}, metrics=metrics, files=(),
    )  # fmt: skip


def test_a_search_stands_for_its_best_trials_training(tmp_path: Any) -> None:
    spec = tune_spec()
    best = {"best": {"values": {"sequence_length_tokens": 64, "adapter.rank": 8}}}
    searched = manifest("tune", spec.model_dump(mode="json", by_alias=True), best, "train.base")
    assert training_of(searched)["sequence_length_tokens"] == 64
    assert training_of(searched)["adapter"]["rank"] == 8
    trained = manifest("train", spec.plain_job, {}, "base")
    assert training_of(trained) == spec.plain_job
    for each in (searched, trained):
        base = recorded_base(Artifact(each, Store(str(tmp_path))))
        assert base is not None
        assert base.name == "small"
