"""Rayloom's endpoint beside bare `vllm serve` on the same model: tokens/s and first token by number of clients.

Both with their own defaults on a GPU; with the small limits of `make bench-serve` on a CPU. One after the other, since
each takes the whole device.
"""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

from place import Place, need, target

LEAST_RATIO = 0.97
LENGTH_TOKENS = 2048
_numbers = itertools.count()


def measured(place: Place) -> dict[str, Any]:
    need("vllm", "ray")
    from endpoints import LIMITS, bare_vllm, rayloom_service
    from support.models import made

    from rayloom.artifacts.store import Store

    store = Store(str(place.folder / "store"))
    model = made(store, "random", "model", lambda folder: _write_model(place, folder))
    limits = ("--max-model-len", str(LENGTH_TOKENS)) if place.is_gpu else LIMITS
    extra = () if place.is_gpu else ("--enforce-eager",)
    with bare_vllm(model.path, place.folder / "vllm.log", *extra, limits=limits) as endpoint:
        bare = _figures(place, endpoint)
    engine = {"gpus_per_replica": 1, "max_sequences": None, "kv_cache": {}} if place.is_gpu else {}
    changes = {"engine": engine, "autoscaling": {"max_ongoing_requests": 2048, "max_queued_requests": 4096}}
    with rayloom_service(store, {"m": model}, model_changes=changes) as served:
        ours = _figures(place, served["m"])
    ratios = {clients: ours[clients]["tokens_per_second"] / bare[clients]["tokens_per_second"] for clients in bare}
    found: dict[str, Any] = {"bare": bare, "ours": ours}
    found["throughput_ratio"] = {clients: round(ratio, 4) for clients, ratio in ratios.items()}
    if place.is_gpu and not place.is_small:
        found["targets"] = {
            f"throughput_ratio_at_{clients}": target(ratios[clients], least=LEAST_RATIO) for clients in ("256", "1024")
        }
    return found


def _figures(place: Place, endpoint: Any) -> dict[str, Any]:
    """By number of clients."""
    from rayloom.serve.load_test.clients import LoadRequest, LoadTarget, closed_loop
    from rayloom.serve.load_test.figures import summary

    target_of = LoadTarget(endpoint.url, endpoint.model, endpoint.headers)
    new_tokens = place.of(128, 8)
    found: dict[str, Any] = {"seconds_to_start": round(endpoint.seconds_to_start, 1)}
    by_clients: dict[str, Any] = {}
    for clients in place.of((1, 32, 256, 1024), (1, 4)):
        requests = [
            LoadRequest(f"{next(_numbers)} w7 w9 w11 tell me", new_tokens, {"ignore_eos": True})
            for _ in range(max(8, clients * 2))
        ]
        figures = summary(asyncio.run(closed_loop(target_of, requests, clients)))
        if figures.num_failed:
            raise AssertionError(f"{figures.num_failed} of {len(requests)} requests failed at {clients} clients")
        first = figures.time_to_first_token
        by_clients[str(clients)] = {
            "tokens_per_second": round(figures.tokens_per_second, 1),
            "first_token_ms": None if first is None else round(first.p50 * 1e3, 2),
            **found,
        }
    return by_clients


def _write_model(place: Place, folder: Path) -> None:
    """A decoder of 1B parameters (or a tiny one) with random weights, made on the device, and a ChatML tokenizer."""
    import torch
    from support.tokenizers import chatml
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = place.of(
        {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
         "num_key_value_heads": 8, "vocab_size": 32768},
        {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 512},
    )  # fmt: skip
    tokenizer = chatml()
    torch.manual_seed(0)
    with torch.device(place.device):
        model: Any = LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=LENGTH_TOKENS)).to(torch.bfloat16)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
