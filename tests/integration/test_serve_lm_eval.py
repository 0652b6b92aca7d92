"""The evaluation harness asks a running server, where the harness is installed."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.harness import write_job
from support.service import MODEL, Served

from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, run
from rayloom.evaluate.checks.harness import API_PACKAGES


@pytest.mark.full
@pytest.mark.skipif(
    any(find_spec(package) is None for package in ("lm_eval", *API_PACKAGES)), reason="the harness is not installed"
)
def test_a_server_is_asked_where_one_is_named(
    smollm2: Artifact, served: Served, shared_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path, smollm2)
    monkeypatch.setenv("OPENAI_API_KEY", served.key)
    endpoint = json.dumps({"url": served.running.url, "model": MODEL})
    made, _ = run(load_job(job, ("name=harness-server", f"checks.0.endpoint={endpoint}")), shared_store)
    found = made.manifest.metrics["checks"]["lm-eval"]["model"]
    assert found["num_rows"] == 5
    assert found["score"] >= 0.5
    asked = [line for line in served.log() if line["path"] == "/v1/completions"]
    assert len(asked) >= 5
