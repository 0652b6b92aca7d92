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
        found |= {"device": device[-1]["device"]} | _utilisation(device[-1], found["tokens_per_second"])
    if "peak_memory_bytes" in finished:
        found["peak_memory_gb"] = round(finished["peak_memory_bytes"] / 1e9, 3)
    found["checkpoint_stall_seconds"] = finished["checkpoint_stall_seconds"]
    if finished["skipped_steps"]:
        found |= {"skipped_steps": finished["skipped_steps"], "rollbacks": finished["rollbacks"]}
    resumed = [event["step"] for event in by_kind.get("resumed", [])]
    return found | ({"resumed_at_steps": resumed} if resumed else {})


def _utilisation(device: dict[str, Any], tokens_per_second: float) -> dict[str, float]:
    """Of the data sheet's peak, as it is usually given, and of the measured one, which is all that a CPU has."""
    reached = tokens_per_second * device["flops_per_token"] / device["num_workers"]
    of_measured = float(f"{reached / device['peak_flops']:.4g}")
    found = {"model_flops_utilisation": of_measured, "measured_peak_tflops": round(device["peak_flops"] / 1e12, 3)}
    stated = device.get("data_sheet_flops")
    if stated is not None:
        found["model_flops_utilisation"] = float(f"{reached / stated:.4g}")
        found |= {"utilisation_of_measured_peak": of_measured, "data_sheet_tflops": round(stated / 1e12, 3)}
    return found


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
