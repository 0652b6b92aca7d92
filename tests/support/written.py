"""Generating tasks run without a model: answers come from a function, files from a folder."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rayloom.generate.asks import Ask, Found, ModelAnswer, driven
from rayloom.generate.prompts import Prompts
from rayloom.generate.tasks.registry import opened
from rayloom.rewards.opening import opened as opened_rewards
from rayloom.specs.generate import GenerateSpec

ENGINE = {"type": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "m"}


def spec_of(task: dict[str, Any], **values: Any) -> GenerateSpec:
    """A job whose rows or seeds lie in no store."""
    where = "seeds" if task["type"] == "self_instruct" else "data"
    source = {"dataset": "./rows"} | task.get(where, {})
    return GenerateSpec.model_validate(
        {"kind": "generate", "name": "made", "engine": ENGINE, "task": task | {where: source}} | values
    )


def write_rows(rows: Sequence[dict[str, Any]], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def written(spec: GenerateSpec, rows: Sequence[dict[str, Any]], folder: Path, say: Callable[[Ask], Any]) -> Found:
    """All rounds of a job as one. `say` gives the text of an answer, or a ModelAnswer without a key."""
    with opened_rewards(spec.rewards, "task.rewards", {}, folder) as rewards:
        task, total = opened(spec, Prompts(None), [write_rows(rows, folder)], {}, rewards), Found()
        for number in itertools.count():
            steps = task.round(number)
            if steps is None:
                return total
            found = driven(steps, lambda asks: [answer_of(ask, say(ask)) for ask in asks])
            total.rows += found.rows
            total.dropped += found.dropped
            total.accepted += found.accepted
    raise AssertionError


def answer_of(ask: Ask, said: Any) -> ModelAnswer:
    """The answer to a request: a text, or the fields of a ModelAnswer."""
    return ModelAnswer(ask.key, said, model="m@1") if isinstance(said, str) else ModelAnswer(ask.key, **said)


def reasons(found: Found) -> list[str]:
    return [one["reason"] for one in found.dropped]
