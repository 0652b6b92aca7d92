"""A small training on a prompt: reviews with two labels, asked behind the text or at a mask in it."""

from __future__ import annotations

from typing import Any

from rayloom.specs.train import TrainSpec

PROMPT = {
    "task": {"type": "text_classification", "labels": ["no", "yes"]},
    "template": "{text}\nIt was {answer}",
    "words": {"no": ["bad", "bald"], "yes": "good"},
}
CLOZE = PROMPT | {
    "template": "{text} it was {answer} film", "words": {"no": "b", "yes": ["a", "very"]}, "scoring": {"type": "cloze"},
}  # fmt: skip
"""Words that say nothing of the labels by themselves."""


def prompted_spec(prompt: dict[str, Any], data: dict[str, Any] | None = None, **changes: Any) -> TrainSpec:
    values: dict[str, Any] = {
        "kind": "train",
        "name": "tuned",
        "base": "./base",
        "task": {"type": "prompted", "prompt": prompt},
        "data": {
            "type": "labelled",
            "sources": [{"dataset": "./data", "read": {"type": "table", "names": {"0": "no", "1": "yes"}}}],
            "heldout_rows": 8,
        }
        | (data or {}),
        "sequence_length_tokens": 64,
        "micro_batch_sequences": 8,
        "global_batch_tokens": 16 * 64,
        "num_steps": 4,
    }
    return TrainSpec.model_validate(values | changes)
