"""A task of the evaluation harness on a real model, where the harness is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.harness import write_job

from rayloom.artifacts.store import Artifact, Store
from rayloom.commands.report import rendered
from rayloom.dispatch import load_job, run
from rayloom.errors import InputError


@pytest.mark.full
def test_own_tasks_are_measured_with_an_interval_and_unknown_ones_are_named(
    smollm2: Artifact, shared_store: Store, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval")
    job = write_job(tmp_path, smollm2)
    made, _ = run(load_job(job), shared_store)
    found = made.manifest.metrics["checks"]["lm-eval"]["model"]
    assert found["num_rows"] == 5
    assert found["score"] >= 0.5
    assert found["tasks"]["capitals"]["acc"] == pytest.approx(found["score"])
    assert "by task" in rendered(shared_store, made.manifest)
    with pytest.raises(InputError, match="cannot be read"):
        run(load_job(job, ('checks.0.tasks=["nothing-of-the-kind"]',)), shared_store)
