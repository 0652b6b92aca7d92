"""A real model writes by vLLM in an actor: what it says, a prompt that is too long, and a job that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from support.written import write_rows

from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, run


def test_a_model_of_the_store_answers_and_a_prompt_that_is_too_long_costs_itself(
    shared_store: Store, smollm2: Artifact, tmp_path: Path
) -> None:
    prompts = ("What is the capital of France?", "long " * 200, "What is the capital of Germany?")
    write_rows([{"prompt": prompt, "id": number} for number, prompt in enumerate(prompts)], tmp_path / "rows")
    engine = {"type": "model", "model": "artifact:smollm2", "max_length_tokens": 128, "kv_cache_bytes": 1 << 27}
    values = {
        "kind": "generate", "name": "written", "engine": engine | {"micro_batch_sequences": 4},
        "task": {"type": "answers", "data": {"dataset": "./rows", "keep": ["id"]}},
        "sampling": {"temperature": 0, "max_new_tokens": 24},
        "rows_per_round": 2,
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(values))
    made, _ = run(load_job(tmp_path / "job.yaml"), shared_store)
    rows, dropped = (
        [json.loads(line) for line in (made.path / name).read_text().splitlines()]
        for name in ("rows.jsonl", "dropped.jsonl")
    )
    assert [row["id"] for row in rows] == [0, 2]
    assert all(town in row["messages"][1]["content"] for row, town in zip(rows, ("Paris", "Berlin"), strict=True))
    assert rows[0]["made_by"]["model"] == smollm2.id
    assert [one["reason"] for one in dropped] == ["failed"] and "128" in dropped[0]["seen"]
    assert smollm2.manifest.licences[0] in made.manifest.licences
    assert 0 < made.manifest.metrics["written_tokens"] <= 48


def test_prompts_that_are_read_in_parts_are_sampled_from_as_any(
    shared_store: Store, smollm2: Artifact, tmp_path: Path
) -> None:
    """Together they are longer than what vLLM reads in one step, so that it reads one of them in two parts."""
    count = 12
    write_rows([{"prompt": f"{number} " + "long " * 500} for number in range(count)], tmp_path / "rows")
    engine = {"type": "model", "model": "artifact:smollm2", "max_length_tokens": 640, "kv_cache_bytes": 1 << 29}
    values = {
        "kind": "generate", "name": "written-from-parts", "engine": engine | {"micro_batch_sequences": count},
        "task": {"type": "answers", "data": {"dataset": "./rows"}},
        "sampling": {"temperature": 0.7, "max_new_tokens": 3}, "filters": {"length": None, "debris": None},
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(values))
    made, _ = run(load_job(tmp_path / "job.yaml"), shared_store)
    assert made.manifest.metrics["written_tokens"] >= count
