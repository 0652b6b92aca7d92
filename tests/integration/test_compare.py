"""A real model answers and judges, one engine after the other; a request that is too long has a name."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from support.written import write_rows

from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, run


def test_a_model_of_the_store_answers_and_judges(shared_store: Store, smollm2: Artifact, tmp_path: Path) -> None:
    rows = [{"prompt": f"What is the capital of {land}?", "own": f"It is {land}." * times} for land, times in
            (("France", 1), ("Germany", 1), ("Italy", 100))]  # fmt: skip
    write_rows(rows, tmp_path / "rows")
    engine = {"type": "model", "model": "artifact:smollm2", "max_length_tokens": 384, "kv_cache_bytes": 1 << 27}
    own = {"type": "column", "column": "own"}
    values = {
        "kind": "compare", "name": "compared", "data": {"dataset": "./rows"}, "judge": engine, "min_judged_share": 0,
        "models": [engine | {"name": "smollm2"}, own | {"name": "own"}, own | {"name": "again"}],
        "sampling": {"temperature": 0, "max_new_tokens": 16}, "max_reply_tokens": 4,
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(values))
    made, _ = run(load_job(tmp_path / "job.yaml"), shared_store)
    answers, judgements = (
        [json.loads(line) for line in (made.path / name).read_text().splitlines()]
        for name in ("answers.jsonl", "judgements.jsonl")
    )
    assert "Paris" in answers[0]["answers"]["smollm2"] and "Berlin" in answers[1]["answers"]["smollm2"]
    asked = [one for one in judgements if one["first"] == "smollm2"]
    assert [one["outcome"] for one in asked[4:]] == ["judge_failed"] * 2 and "384" in asked[4]["said"]
    assert all(len(one["said"]) == 2 for one in asked[:4])
    metrics = made.manifest.metrics
    assert (metrics["judge"], metrics["judge_requests"], metrics["num_prompts"]) == (smollm2.id, 12, 3)
    assert metrics["outcomes"]["same_answers"] == 3 and metrics["outcomes"]["judge_failed"] == 2
    assert 0 < metrics["judge_written_tokens"] <= 8 * 4
    assert {parent.field for parent in made.manifest.parents} == {"data.dataset", "models.0.model", "judge.model"}
