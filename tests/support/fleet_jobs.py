"""A pipeline of every kind of batch job over very small models, and what it made: for clusters and for one machine."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rayloom.artifacts.store import Artifact, Store
from rayloom.train.loop.run_log import read_log
from support.models import write_model
from support.training_jobs import small_spec

PIPELINE, SMALL_PIPELINE = "everything", "a-few"
SMALL_STAGES = ("pages", "cleaned", "pretrained", "judged")
CLEAN: dict[str, Any] = {
    "kind": "clean", "name": "cleaned", "chunk_bytes": 1 << 16, "max_bad_rows_share": 0.1,
    "sources": [{"name": "pages", "dataset": "artifact:pages", "format": {"type": "jsonl"}, "domain": "web"}],
    "rules": {"gopher": None, "repetition": None},
    "output": {
        "type": "tokens", "tokenizer": {"type": "train", "vocabulary_size": 400}, "heldout_share": 0.2,
        "shard_tokens": 20_000, "mixture": {"total_tokens": 50_000},
    },
}  # fmt: skip
WORKERS = {"num_workers": 2, "cpus_per_worker": 1}
PRETRAINED = small_spec(name="pretrained", workers=WORKERS, num_steps=8, checkpoints={"every_steps": 3})
NUM_TEXTS = 1000
"""Four files of about 200 kB, which chunks of 64 KiB cut into a dozen tasks."""
VLLM = {"max_new_tokens": 4, "max_length_tokens": 128, "kv_cache_bytes": 1 << 26}
LORA: dict[str, Any] = {
    "kind": "train", "name": "tuned", "base": "artifact:base", "adapter": {"type": "lora", "rank": 4},
    "data": {
        "type": "conversations", "heldout_rows": 8, "sources": [{"dataset": "artifact:chats", "format": "alpaca"}],
    },
    "sequence_length_tokens": 64, "micro_batch_sequences": 2, "global_batch_tokens": 256, "num_steps": 6,
    "learning_rate": 1e-2, "precision": "fp32", "checkpoints": {"every_steps": 2},
}  # fmt: skip


WORDS = ["harbour", "river", "boat", "lamp", "street", "garden", "market", "winter", "letter", "bridge", "teacher"]


def write_texts(folder: Path, count: int) -> None:
    """Labelled documents: every tenth is nearly the one before it, every twentieth the same as an earlier one."""
    dice = random.Random(count)
    folder.mkdir(exist_ok=True)
    texts: list[str] = []
    for number in range(count):
        if number % 20 == 19:
            texts.append(texts[-3])
        elif number % 10 == 9:
            texts.append(texts[-1].rsplit(" ", 1)[0] + " changed")
        else:
            texts.append(" ".join(f"{dice.choice(WORDS)}{dice.randrange(99)}" for _ in range(80)))
    rows = [json.dumps({"text": text, "label": f"l{number % 3}"}) for number, text in enumerate(texts)]
    for part in range(4):
        (folder / f"{part}.jsonl").write_text("\n".join([*rows[part::4], "{broken"]) + "\n")


def write_jobs(folder: Path, leave_out: Sequence[str] = (), **changes: dict[str, Any]) -> Path:
    """The pipelines' files, beside those of their stages and their data; `changes` of a stage's job by its name.

    The corpus `made-up` must be in the store (`made_up_corpus`). `leave_out`: names of stages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # vLLM's attention on CPUs begins at heads of 32.
    write_model(folder / "base", num_attention_heads=2, num_key_value_heads=1)
    write_texts(folder / "pages", NUM_TEXTS)
    (folder / "chats").mkdir()
    rows = [{"instruction": f"Tell me {n}.", "output": f"One two three, {n} of it." * (1 + n % 3)} for n in range(40)]
    (folder / "chats" / "rows.json").write_text(json.dumps(rows))
    jobs = {job["name"]: job | changes.get(job["name"], {}) for job in _jobs() if job["name"] not in leave_out}
    for name, job in jobs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(job))
    for pipeline, names in ((PIPELINE, jobs), (SMALL_PIPELINE, SMALL_STAGES)):
        stages = [{"name": name, "job": f"{name}.yaml", "needs": _NEEDS.get(name, [])} for name in names]
        job = {"kind": "pipeline", "name": pipeline, "stages": stages, "max_parallel_stages": 2}
        (folder / f"{pipeline}.yaml").write_text(yaml.safe_dump(job | changes.get(pipeline, {})))
    return folder / f"{PIPELINE}.yaml"


_NEEDS: dict[str, list[str]] = {
    "tuned": ["base", "chats"], "merged": ["tuned"], "smaller": ["merged"], "compared": ["tuned", "merged"],
    "answered": ["merged", "chats"], "written": ["merged", "chats"], "cleaned": ["pages"], "served": ["merged"],
    "judged": ["pretrained"],
}  # fmt: skip


def _jobs() -> list[dict[str, Any]]:
    trial = small_spec(num_steps=8, evaluate_every_steps=2, checkpoints={"every_steps": 2})
    heldout = {"type": "heldout_loss", "rows_of": "artifact:tuned"}
    says = {"type": "answers", "name": "says", "prompts": ["Tell me."], "contains": "zebra", "max_new_tokens": 4}
    return [
        {"kind": "import", "name": "base", "source": {"type": "folder", "path": "./base"}, "licence": "MIT",
         "content": {"type": "model"}},
        {"kind": "import", "name": "chats", "source": {"type": "folder", "path": "./chats"}, "licence": "MIT",
         "content": {"type": "dataset"}},
        {"kind": "import", "name": "pages", "source": {"type": "folder", "path": "./pages"}, "licence": "MIT",
         "content": {"type": "dataset"}},
        CLEAN,
        _plain(PRETRAINED),
        {"kind": "evaluate", "name": "judged", "model": "artifact:pretrained",
         "checks": [{"type": "heldout_loss", "rows_of": "artifact:pretrained"}]},
        {"kind": "tune", "name": "searched", "train": _plain(trial), "seed": 3,
         "space": {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-1}},
         "searcher": {"type": "random"}, "scheduler": {"type": "population", "num_members": 4, "interval_steps": 4}},
        LORA,
        {"kind": "merge", "name": "merged", "adapter": "artifact:tuned", "max_logit_difference": 0.01},
        # Without a look at it in vLLM, which takes half a minute.
        {"kind": "quantize", "name": "smaller", "model": "artifact:merged", "rows_of": "artifact:tuned",
         "scheme": {"type": "int8", "smoothing": None}, "max_engine_difference": None, "max_quality_loss": 2.0},
        {"kind": "evaluate", "name": "compared", "model": "artifact:tuned", "baseline": "artifact:merged",
         "checks": [heldout, says]},
        {"kind": "predict", "name": "answered", "model": "artifact:merged", "data": "artifact:chats",
         "text": "instruction", "rows_per_part": 10, "num_workers": 2, "limit_rows": 30,
         "generation": {"engine": "transformers", "max_new_tokens": 4}},
        {"kind": "predict", "name": "written", "model": "artifact:merged", "data": "artifact:chats",
         "text": "instruction", "rows_per_part": 10, "generation": VLLM},
        SERVE,
    ]  # fmt: skip


SERVE: dict[str, Any] = {
    "kind": "serve", "name": "served", "port": 8467,
    "models": [{
        "name": "small", "model": "artifact:merged",
        "engine": {"max_model_length_tokens": 128, "max_sequences": 4, "kv_cache": {"size_bytes": 1 << 26}},
    }],
    "check": {"prompt": "Tell me.", "contains": "", "max_new_tokens": 4, "load_clients": 4},
}  # fmt: skip


def _plain(spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = spec.model_dump(mode="json", exclude_none=True)
    return found


def opened(store: Store, name: str) -> Artifact:
    return store.open(store.resolve(name))


def losses(store: Store, name: str) -> list[tuple[int, float]]:
    log = read_log(opened(store, name).path / "metrics.jsonl")
    return [(event["step"], event["loss"]) for event in log if event["event"] == "step"]


def results(store: Store) -> dict[str, Any]:
    """What a run must give anywhere: digests of weights and answers, losses, scores; no times and places.

    Of stages that were not left out.
    """
    found: dict[str, Any] = {f"{name}'s losses": losses(store, name) for name in ("pretrained", "tuned")}
    for name in ("base", "chats", "pretrained", "tuned", "searched", "merged", "smaller", "answered", "written"):
        if name not in store.names():
            continue
        files = opened(store, name).manifest.files
        found[name] = {file.path: file.sha256 for file in files if _is_result(file.path)}
        assert found[name], name
    found["cleaned"] = {file.path: file.sha256 for file in opened(store, "cleaned").manifest.files}
    for name in ("compared", "judged"):
        checks = opened(store, name).manifest.metrics["checks"]
        found[name] = json.loads(json.dumps(checks, default=str))
    trials = (opened(store, "searched").path / "trials").glob("*.jsonl")
    found["trials"] = {file.name: [e["loss"] for e in read_log(file) if e["event"] == "step"] for file in trials}
    return found


def _is_result(path: str) -> bool:
    return path.endswith((".safetensors", "predictions.jsonl", "rows.json"))
