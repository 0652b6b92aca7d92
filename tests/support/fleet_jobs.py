"""A pipeline of every kind of batch job over very small models, and what it made: for clusters and for one machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from rayloom.artifacts.store import Artifact, Store
from rayloom.train.loop.run_log import read_log
from support.models import write_model
from support.training_jobs import small_spec

PIPELINE = "everything"
WORKERS = {"num_workers": 2, "cpus_per_worker": 1}
LORA: dict[str, Any] = {
    "kind": "train", "name": "tuned", "base": "artifact:base", "adapter": {"type": "lora", "rank": 4},
    "data": {
        "type": "conversations", "heldout_rows": 8, "sources": [{"dataset": "artifact:chats", "format": "alpaca"}],
    },
    "sequence_length_tokens": 64, "micro_batch_sequences": 2, "global_batch_tokens": 256, "num_steps": 6,
    "learning_rate": 1e-2, "precision": "fp32", "checkpoints": {"every_steps": 2},
}  # fmt: skip


def write_jobs(folder: Path, **changes: dict[str, Any]) -> Path:
    """The pipeline's file, beside those of its stages and their data; `changes` of a stage's job by its name.

    The corpus `made-up` must be in the store (`made_up_corpus`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "base")
    (folder / "chats").mkdir()
    rows = [{"instruction": f"Tell me {n}.", "output": f"One two three, {n} of it." * (1 + n % 3)} for n in range(40)]
    (folder / "chats" / "rows.json").write_text(json.dumps(rows))
    jobs = {job["name"]: job | changes.get(job["name"], {}) for job in _jobs()}
    for name, job in jobs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(job))
    stages = [{"name": name, "job": f"{name}.yaml", "needs": _NEEDS.get(name, [])} for name in jobs]
    pipeline = {"kind": "pipeline", "name": PIPELINE, "stages": stages, "max_parallel_stages": 2}
    (folder / f"{PIPELINE}.yaml").write_text(yaml.safe_dump(pipeline | changes.get(PIPELINE, {})))
    return folder / f"{PIPELINE}.yaml"


_NEEDS: dict[str, list[str]] = {
    "tuned": ["base", "chats"], "merged": ["tuned"], "smaller": ["merged"], "compared": ["tuned", "merged"],
    "answered": ["merged", "chats"],
}  # fmt: skip


def _jobs() -> list[dict[str, Any]]:
    pretrained = small_spec(name="pretrained", workers=WORKERS, num_steps=8, checkpoints={"every_steps": 3})
    trial = small_spec(num_steps=8, evaluate_every_steps=2, checkpoints={"every_steps": 2})
    heldout = {"type": "heldout_loss", "rows_of": "artifact:tuned"}
    says = {"type": "answers", "name": "says", "prompts": ["Tell me."], "contains": "zebra", "max_new_tokens": 4}
    return [
        {"kind": "import", "name": "base", "source": {"type": "folder", "path": "./base"}, "licence": "MIT",
         "content": {"type": "model"}},
        {"kind": "import", "name": "chats", "source": {"type": "folder", "path": "./chats"}, "licence": "MIT",
         "content": {"type": "dataset"}},
        _plain(pretrained),
        {"kind": "tune", "name": "searched", "train": _plain(trial), "seed": 3,
         "space": {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-1}},
         "searcher": {"type": "random"}, "scheduler": {"type": "population", "num_members": 4, "interval_steps": 4}},
        LORA,
        {"kind": "merge", "name": "merged", "adapter": "artifact:tuned", "max_logit_difference": 0.01},
        # vLLM has no attention for heads as small as this model's.
        {"kind": "quantize", "name": "smaller", "model": "artifact:merged", "rows_of": "artifact:tuned",
         "scheme": {"type": "int8", "smoothing": None}, "max_engine_difference": None, "max_quality_loss": 2.0},
        {"kind": "evaluate", "name": "compared", "model": "artifact:tuned", "baseline": "artifact:merged",
         "checks": [heldout, says]},
        {"kind": "predict", "name": "answered", "model": "artifact:merged", "data": "artifact:chats",
         "text": "instruction", "rows_per_part": 10, "num_workers": 2, "limit_rows": 30,
         "generation": {"engine": "transformers", "max_new_tokens": 4}},
    ]  # fmt: skip


def _plain(spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = spec.model_dump(mode="json", exclude_none=True)
    return found


def opened(store: Store, name: str) -> Artifact:
    return store.open(store.resolve(name))


def losses(store: Store, name: str) -> list[tuple[int, float]]:
    log = read_log(opened(store, name).path / "metrics.jsonl")
    return [(event["step"], event["loss"]) for event in log if event["event"] == "step"]


def results(store: Store) -> dict[str, Any]:
    """What a run must give anywhere: digests of weights and answers, losses, scores; no times and places."""
    found: dict[str, Any] = {f"{name}'s losses": losses(store, name) for name in ("pretrained", "tuned")}
    for name in ("base", "chats", "pretrained", "tuned", "searched", "merged", "smaller", "answered"):
        files = opened(store, name).manifest.files
        found[name] = {file.path: file.sha256 for file in files if _is_result(file.path)}
        assert found[name], name
    checks = opened(store, "compared").manifest.metrics["checks"]
    found["compared"] = json.loads(json.dumps(checks, default=str))
    trials = (opened(store, "searched").path / "trials").glob("*.jsonl")
    found["trials"] = {file.name: [e["loss"] for e in read_log(file) if e["event"] == "step"] for file in trials}
    return found


def _is_result(path: str) -> bool:
    return path.endswith((".safetensors", "predictions.jsonl", "rows.json"))
