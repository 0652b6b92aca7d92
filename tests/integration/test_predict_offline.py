"""Rows answered by vLLM's offline engine with an adapter, as transformers answers them; a bad row fails by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from support.adapters import trained_adapter
from support.likelihoods import NEAR_TIE_NATS, leads
from support.tasks import write_jsonl
from transformers import AutoModelForCausalLM

from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, run
from rayloom.text.conversations.render import Renderer

QUESTIONS = ("What is the capital of France?", "What is the capital of Germany?", "Name the largest ocean.")


def predicted(store: Store, folder: Path, name: str, **generation: Any) -> tuple[Artifact, list[str], list[str]]:
    values = {
        "kind": "predict", "name": name, "model": "artifact:offline-lora", "data": "./rows", "rows_per_part": 2,
        "micro_batch_sequences": 4, "max_failed_share": 0.5,
        "generation": {"max_new_tokens": 12, "max_length_tokens": 128, "kv_cache_bytes": 1 << 27} | generation,
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    made, _ = run(load_job(folder / f"{name}.yaml"), store)
    answers, failed = (
        [json.loads(line) for line in (made.path / file).read_text().splitlines()]
        for file in ("predictions.jsonl", "failed.jsonl")
    )
    return made, [row["answer"] for row in answers], [row["failed"] for row in failed]


@pytest.mark.full
def test_the_offline_engine_answers_as_transformers_does_and_a_bad_row_fails_alone(
    shared_store: Store, smollm2: Artifact, instructions: Artifact, tmp_path: Path
) -> None:
    trained_adapter(shared_store, smollm2, instructions, "offline-lora", 0)
    rows: list[dict[str, Any]] = [{"text": text} for text in (*QUESTIONS, " ", "long " * 200)]
    write_jsonl(rows, tmp_path / "rows/x.jsonl")
    made, answers, failed = predicted(shared_store, tmp_path, "offline", max_new_tokens=12)
    assert (made.manifest.metrics["num_rows"], made.manifest.metrics["num_failed"]) == (5, 2)
    assert failed[0].startswith("empty_text")
    assert "128" in failed[1]
    _, expected, _ = predicted(shared_store, tmp_path, "inside", engine="transformers")
    adapter = shared_store.open(shared_store.resolve("artifact:offline-lora")).path
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(smollm2.path, dtype=torch.float32), adapter)
    renderer = Renderer.of_model(smollm2.path)
    for question, *said in zip(QUESTIONS, answers[:3], expected[:3], strict=True):
        prompt = renderer.prompt([{"role": "user", "content": question}])
        for answer in said:
            assert min(leads(model, prompt, renderer.tokenizer(answer)["input_ids"])) > -NEAR_TIE_NATS


@pytest.mark.full
def test_heldout_conversations_are_answered_by_the_offline_engine(
    shared_store: Store, smollm2: Artifact, instructions: Artifact, tmp_path: Path
) -> None:
    trained_adapter(shared_store, smollm2, instructions, "offline-lora", 0)
    generation = {"max_new_tokens": 12, "max_length_tokens": 512, "kv_cache_bytes": 1 << 27}
    checks = [
        {"type": "written", "name": engine, "rows_of": "artifact:offline-lora", "limit_rows": 6,
         "generation": generation | {"engine": engine}}
        for engine in ("vllm", "transformers")
    ]  # fmt: skip
    job = {"kind": "evaluate", "name": "written", "model": "artifact:offline-lora", "checks": checks}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    made, _ = run(load_job(tmp_path / "job.yaml"), shared_store)
    found = made.manifest.metrics["checks"]
    assert found["vllm"]["model"]["num_rows"] == 6
    assert found["vllm"]["model"]["score"] == pytest.approx(found["transformers"]["model"]["score"], abs=0.05)
    assert 0 < found["vllm"]["model"]["score"] < 1
