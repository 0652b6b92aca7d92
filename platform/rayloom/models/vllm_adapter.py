"""Whether vLLM's offline engine can load a model's adapter beside its base, and how much room it needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rayloom.errors import InputError
from rayloom.models.responders.responder import task_of
from rayloom.models.responders.subject import Subject
from rayloom.specs.predict import PredictSpec

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Those that vLLM makes room for."""


def goes_offline(spec: PredictSpec, subject: Subject) -> bool:
    """Whether vLLM's offline engine answers: it writes text, and a task's labels are none, nor are a prompt's."""
    return task_of(subject) is None and spec.prompt is None and spec.generation.engine == "vllm"


def check_offline(subject: Subject) -> None:
    """Raises InputError where the engine cannot load the adapter."""
    if subject.adapter is None:
        return
    facts = _facts(subject.adapter)
    fix = "Merge it (`kind: merge`), or set generation.engine: transformers."
    if facts.get("peft_type") != "LORA":
        raise InputError(f"vLLM loads adapters of type LoRA only, not {subject.artifact_id}", where="model", fix=fix)
    if facts.get("use_dora") or facts.get("modules_to_save"):
        what = f"vLLM cannot load {subject.artifact_id}: it has DoRA's magnitudes or whole modules"
        raise InputError(what, where="model", fix=fix)


def room_for_rank(adapter: Path) -> int:
    """The least of vLLM's ranks that holds the adapter's."""
    rank = int(_facts(adapter)["r"])
    return next(room for room in LORA_RANKS if room >= rank)


def _facts(adapter: Path) -> dict[str, Any]:
    file = adapter / "adapter_config.json"
    facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return facts
