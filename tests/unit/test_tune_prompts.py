"""Searches over prompts: what may vary, real trials by a small model, and a winner that runs as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.models import made
from support.tasks import review_rows, write_encoder, write_jsonl

from rayloom.artifacts.build import ResolvedJob, build
from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job
from rayloom.errors import SpecError
from rayloom.evaluate.run import run as evaluate
from rayloom.specs.tune import TuneSpec
from rayloom.tune import plan, report, run
from rayloom.tune.results import BEST_JOB_NAME, read_trials

SPACE = {
    "checks.0.prompt.template": {"type": "choice", "values": ["{text} it was {answer}", "$ {text} {answer} film"]},
    "checks.0.prompt.words": {
        "type": "choice",
        "values": [{"no": "b", "yes": "a"}, {"no": "it", "yes": ["very", "in"]}],
    },
    "checks.0.prompt.demonstrations": {"type": "choice", "values": [None, {"num_rows": 2}]},
}


def job_of(**changes: Any) -> dict[str, Any]:
    check = {
        "type": "prompted",
        "name": "asked",
        "data": {
            "type": "labelled",
            "sources": [{"dataset": "artifact:reviews", "read": {"type": "table", "names": {"0": "no", "1": "yes"}}}],
            "heldout_rows": 16,
        },
        "prompt": {
            "task": {"type": "text_classification", "labels": ["no", "yes"]},
            "template": "{text} {answer}",
            "scoring": {"type": "cloze"},
        },
    }
    values: dict[str, Any] = {
        "kind": "tune",
        "name": "asking",
        "evaluate": {"kind": "evaluate", "name": "asked", "model": "artifact:encoder", "checks": [check]},
        "space": SPACE,
        "objectives": [{"metric": "checks.asked.score"}],
        "searcher": {"type": "grid"},
    }
    return values | changes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("prompts") / "store"))


@pytest.fixture(scope="module")
def parents(store: Store) -> dict[str, Artifact]:
    def words(folder: Path) -> None:
        write_encoder(folder, initializer_range=0.5)

    rows = made(store, "reviews", "dataset", lambda folder: write_jsonl(review_rows(40), folder / "rows.jsonl"))
    model = made(store, "encoder", "model", words)
    return {"evaluate.model": model, "evaluate.checks.0.data.sources.0.dataset": rows}


def test_every_prompt_is_tried_by_one_model_and_the_best_is_a_file_that_runs(
    store: Store, parents: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLOOM_STORE", store.uri)
    spec = TuneSpec.model_validate(job_of())
    sheet = plan.plan(spec, parents, tmp_path)
    assert dict(sheet.facts)["trials"] == "8" and sheet.problems == []
    assert any("measure best.yaml on others" in line for line in sheet.warnings)

    artifact = build(ResolvedJob(spec, 1, parents, tmp_path), store, run.run)[0]
    trials = read_trials(artifact)
    assert len(trials) == 8 and {trial.outcome for trial in trials} == {"finished"}
    scores = [trial.metrics["checks.asked.score"] for trial in trials]
    assert len(set(scores)) > 1 and all(0 <= score <= 1 for score in scores)
    best = artifact.manifest.metrics["best"]
    assert best["metrics"]["checks.asked.score"] == max(scores)
    assert artifact.manifest.content == "report"
    assert "Values and result" in [section.title for section in report.sections(artifact)]

    file = tmp_path / BEST_JOB_NAME
    file.write_text((artifact.path / BEST_JOB_NAME).read_text(encoding="utf-8"), encoding="utf-8")
    again = load_job(file)
    own = {path.removeprefix("evaluate."): parent for path, parent in parents.items()}
    measured = build(ResolvedJob(again.spec, 1, own, tmp_path), store, evaluate)[0].manifest.metrics
    assert measured["checks"]["asked"]["model"]["score"] == max(scores)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"space": {"checks.0.seed": {"type": "integer", "low": 0, "high": 3}}}, "is no part of a prompt"),
        ({"space": {"checks.0.prompt.tmplate": {"type": "choice", "values": ["{text} {answer}"]}}}, "template"),
        (
            {"space": {"checks.0.prompt.template": {"type": "choice", "values": ["{tex} {answer}"]}}},
            r"template has a field \{tex\}",
        ),
        ({"objectives": [{"metric": "heldout_loss"}]}, "no metric that a search over prompts measures"),
        ({"scheduler": {"type": "median"}}, "trials of a search over prompts are measured once"),
        ({"timed_steps": {}}, "is for a search over a training job"),
        ({"evaluate": job_of()["evaluate"] | {"baseline": "artifact:encoder"}}, "asks one model"),
    ],
)
def test_what_a_search_over_prompts_cannot_do_is_said(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job_of(**changes)), encoding="utf-8")
    with pytest.raises(SpecError, match=said):
        load_job(file)
