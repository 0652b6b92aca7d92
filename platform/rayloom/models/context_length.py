"""A model's context length (prompt and answer together), derived from its config.json as vLLM does.

After vLLM 0.32 (`config/model.py`, `_get_and_verify_max_len`; `transformers_utils/model_arch_config_convertor.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_KEYS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_target_positions"),
    *("max_sequence_length", "max_seq_length", "seq_len"),
)
_ALREADY_SCALED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
"""RoPE scalings whose factor is already part of the configuration's number of positions."""


def context_tokens(config: Mapping[str, Any]) -> int | None:
    """The number of positions, RoPE scaling included; None if the configuration sets no limit."""
    text = config.get("text_config") or config
    # T5 sets n_positions, but its relative positions have no limit.
    keys = [key for key in _KEYS if key != "n_positions" or "relative_attention_num_buckets" not in text]
    limits = [text[key] for key in keys if isinstance(text.get(key), int)]
    own = text.get("model_max_length")
    limit = own if isinstance(own, int) else min(limits, default=None)
    if limit is None or "gemma3" in str(config.get("model_type")):
        return limit
    factors = [scaling.get("factor") or 1.0 for scaling in _scalings(text) if "factor" in scaling]
    return int(limit * factors[-1]) if factors else limit


def context_tokens_of(folder: Path) -> int | None:
    """`context_tokens` of the model in a folder."""
    return context_tokens(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def _scalings(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """RoPE settings, by kind of layer, whose factor extends the number of positions."""
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    by_layer = [value for value in settings.values() if isinstance(value, Mapping)]
    for one in by_layer or [settings]:
        if one.get("rope_type", one.get("type", "default")) not in _ALREADY_SCALED:
            yield one
