"""A small adapter of the real model, trained on Ray, loads with plain PEFT."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM

from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, run
from rayloom.score.perplexity import heldout_loss
from rayloom.text.packed.shards import TokenShards


def test_a_lora_run_stops_early_and_loads_with_plain_peft(
    shared_store: Store, smollm2: Artifact, instructions: Artifact, tmp_path: Path
) -> None:
    spec = {
        "kind": "train",
        "name": "small-adapter",
        "base": "artifact:smollm2",
        "data": {
            "type": "conversations",
            "sources": [
                {
                    "dataset": "artifact:instructions",
                    "files": "**/alpaca_en_demo.json",
                    "format": "alpaca",
                    "limit_rows": 40,
                    "max_row_tokens": 64,
                }
            ],
            "heldout_rows": 8,
        },
        "adapter": {"type": "lora", "rank": 4},
        "sequence_length_tokens": 64,
        "micro_batch_sequences": 2,
        "global_batch_tokens": 256,
        "num_epochs": 2,
        "learning_rate": 1e-3,
        "workers": {"num_workers": 1, "cpus_per_worker": 2},
        "evaluate_every_steps": 4,
        "early_stopping": {"patience": 2},
    }
    file = tmp_path / "adapter.yaml"
    file.write_text(yaml.safe_dump(spec))
    artifact, _ = run(load_job(file), shared_store)
    assert artifact.manifest.content == "adapter"
    found = artifact.manifest.metrics["heldout"]["heldout"]
    assert found["after"]["loss"] < found["before"]["loss"]
    base = AutoModelForCausalLM.from_pretrained(smollm2.path, dtype=torch.bfloat16)
    adapted = PeftModel.from_pretrained(base, artifact.path)
    again = heldout_loss(adapted, TokenShards(artifact.path / "heldout", 64), 2)
    assert again.mean_nats == pytest.approx(found["after"]["loss"], abs=0.01)
    assert (artifact.path / "chat_template.jinja").exists()
    assert artifact.manifest.metrics["rows"]["heldout"]["rows"] == 8
    shutil.rmtree(artifact.path)
