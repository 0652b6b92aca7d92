"""The numbers of a run, read off its log."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any


def summarize(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Steps, tokens, speed, and each held-out loss before and after, as an artifact's metrics have them."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        by_kind.setdefault(event["event"], []).append(event)
    steps, (finished,) = by_kind.get("step", []), by_kind["finished"]
    best_step = finished["best_step"]
    found: dict[str, Any] = {
        "steps": finished["step"],
        "tokens": finished["tokens"],
        "heldout": _heldout(by_kind.get("heldout", []), best_step),
    }
    if best_step is not None:
        found["best_step"] = best_step
    if steps:
        found |= {
            "train_loss": round(steps[-1]["loss"], 5),
            "tokens_per_second": round(statistics.median(s["tokens"] / s["seconds"] for s in steps), 1),
            "seconds_training": round(sum(s["seconds"] for s in steps), 2),
            "data_wait_share": round(sum(s["data_wait_seconds"] for s in steps) / sum(s["seconds"] for s in steps), 5),
        }
    device = by_kind.get("device", [])
    if steps and device:
        reached = found["tokens_per_second"] * device[-1]["flops_per_token"]
        peak = device[-1]["peak_flops"] * device[-1]["num_workers"]
        found |= {"device": device[-1]["device"], "model_flops_utilisation": float(f"{reached / peak:.4g}")}
        found["measured_peak_tflops"] = round(device[-1]["peak_flops"] / 1e12, 3)
    if "peak_memory_bytes" in finished:
        found["peak_memory_gb"] = round(finished["peak_memory_bytes"] / 1e9, 3)
    found["checkpoint_stall_seconds"] = finished["checkpoint_stall_seconds"]
    if finished["skipped_steps"]:
        found |= {"skipped_steps": finished["skipped_steps"], "rollbacks": finished["rollbacks"]}
    resumed = [event["step"] for event in by_kind.get("resumed", [])]
    return found | ({"resumed_at_steps": resumed} if resumed else {})


def _heldout(events: list[dict[str, Any]], best_step: int | None) -> dict[str, Any]:
    """By name: before training, and after it, which is where the kept weights are from."""
    found: dict[str, Any] = {}
    for event in events:
        numbers = {"loss": round(event["loss"], 5), "perplexity": round(event["perplexity"], 3)}
        numbers |= {measure: round(event[measure], 5) for measure in ("accuracy", "score") if measure in event}
        named = found.setdefault(event["name"], {"before": numbers, "labels": event["labels"]})
        if best_step is None or event["step"] == best_step:
            named["after"] = numbers
    return found
