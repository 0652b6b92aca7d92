"""The pipeline's graph: order, circles, and artifacts used without being needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from rayloom.errors import SpecError
from rayloom.kinds import SPECS
from rayloom.pipeline.graph import load_stages
from rayloom.specs.files.load import Job, load
from rayloom.specs.pipeline import PipelineSpec

MERGE = "kind: merge\nname: {name}\nadapter: {adapter}\n"


def _pipeline(folder: Path, stages: str) -> tuple[PipelineSpec, Job]:
    file = folder / "pipeline.yaml"
    file.write_text(f"kind: pipeline\nname: chain\nstages:\n{stages}")
    job = load(file, SPECS)
    assert isinstance(job.spec, PipelineSpec)
    return job.spec, job


def _load(file: Path, overrides: Sequence[str]) -> Job:
    return load(file, SPECS, overrides)


def test_stages_come_after_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(MERGE.format(name="a", adapter="artifact:b"))
    (tmp_path / "b.yaml").write_text(MERGE.format(name="b", adapter="artifact:outside"))
    spec, job = _pipeline(tmp_path, "  - {name: a, job: a.yaml, needs: [b]}\n  - {name: b, job: b.yaml}\n")
    assert [item.stage.name for item in load_stages(spec, job, _load)] == ["b", "a"]


def test_use_without_need_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(MERGE.format(name="a", adapter="artifact:outside"))
    (tmp_path / "b.yaml").write_text(MERGE.format(name="b", adapter="artifact:a"))
    spec, job = _pipeline(tmp_path, "  - {name: a, job: a.yaml}\n  - {name: b, job: b.yaml}\n")
    with pytest.raises(SpecError, match="add a to its needs"):
        load_stages(spec, job, _load)


def test_need_of_a_need_is_enough(tmp_path: Path) -> None:
    for name, adapter in (("a", "outside"), ("b", "outside"), ("c", "a")):
        (tmp_path / f"{name}.yaml").write_text(MERGE.format(name=name, adapter=f"artifact:{adapter}"))
    stages = "  - {name: a, job: a.yaml}\n  - {name: b, job: b.yaml, needs: [a]}\n"
    spec, job = _pipeline(tmp_path, stages + "  - {name: c, job: c.yaml, needs: [b]}\n")
    assert len(load_stages(spec, job, _load)) == 3


def test_two_makers_of_one_artifact_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(MERGE.format(name="same", adapter="artifact:outside"))
    spec, job = _pipeline(tmp_path, "  - {name: a, job: a.yaml}\n  - {name: b, job: a.yaml}\n")
    with pytest.raises(SpecError, match="both make same"):
        load_stages(spec, job, _load)


def test_problems_of_all_stage_files_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: merge\nname: a\nadaptr: artifact:x\n")
    spec, job = _pipeline(tmp_path, "  - {name: a, job: a.yaml}\n  - {name: b, job: missing.yaml}\n")
    with pytest.raises(SpecError) as caught:
        load_stages(spec, job, _load)
    text = "\n".join(caught.value.problems)
    assert "did you mean adapter?" in text
    assert "missing.yaml" in text


def test_circle_is_refused_when_read(tmp_path: Path) -> None:
    stages = "  - {name: a, job: a.yaml, needs: [b]}\n  - {name: b, job: b.yaml, needs: [a]}\n"
    with pytest.raises(SpecError, match="circle: a, b"):
        _pipeline(tmp_path, stages)
