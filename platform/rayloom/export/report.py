"""Report sections of a merged or quantised model."""

from __future__ import annotations

from typing import Any

from rayloom.artifacts.store import Artifact
from rayloom.observe.report_page import Section, table


def sections(artifact: Artifact) -> list[Section]:
    """The model's source, and how much the result differs from it."""
    metrics = artifact.manifest.metrics
    return _merge_sections(metrics) if artifact.manifest.kind == "merge" else _quantize_sections(metrics)


def _merge_sections(metrics: dict[str, Any]) -> list[Section]:
    precision = metrics["save_precision"]
    compared = [
        ("what the adapter changes: base against base + adapter", metrics["effect_of_adapter"]),
        ("what merging changes, in fp32: base + adapter against merged", metrics["merged_against_adapter"]),
        (
            f"what is published, in {precision}: base + adapter against the saved model",
            metrics["saved_against_adapter"],
        ),
    ]
    if metrics.get("trained_on"):
        there = metrics["trained_on"]
        name = (
            f"what the base's rounding was: {there['base']} base + adapter, as trained, against 16-bit base + adapter"
        )
        compared.append((name, there["agreement"]))
    header = ("", "largest logit difference", "mean", "same next token", "positions")
    rows = [
        (
            name,
            agreement["max_logit_difference"],
            agreement["mean_logit_difference"],
            f"{agreement['next_token_share']:.2%}",
            agreement["num_positions"],
        )
        for name, agreement in compared
    ]
    combined = metrics.get("combined")
    together = f"{combined['method']} with {', '.join(combined['others'])}" if combined else "nothing"
    facts = (
        ("base", metrics["base"]),
        ("combined by", together),
        ("adapter", f"{metrics['adapter']['artifact']}: {metrics['adapter']['described']}"),
        ("norm of the update", metrics["adapter"]["update_norm"]),
        ("architecture", metrics["architecture"]),
        ("parameters", metrics["num_parameters"]),
        ("largest logit difference allowed in fp32", metrics["max_logit_difference"]),
    )
    return [Section("Merged", table(("", ""), facts)), Section("On real prompts", table(header, rows))]


def _quantize_sections(metrics: dict[str, Any]) -> list[Section]:
    sizes = [
        (name, metrics[key]["before"], metrics[key]["after"], f"{metrics[key]['share']:.1%}")
        for name, key in (("quantised linear layers", "linear_bytes"), ("weight files", "file_bytes"))
    ]
    in_bytes = Section("Bytes", table(("", "in bf16", "after", "share"), sizes))
    return [*(_task_quality(metrics) if "task" in metrics else _text_quality(metrics)), in_bytes]


def _task_quality(metrics: dict[str, Any]) -> list[Section]:
    speed = metrics["texts_per_second"]
    facts = (
        ("model", metrics["model"]),
        ("architecture", metrics["architecture"]),
        ("task", metrics["task"]),
        ("scheme", metrics["scheme"]),
        ("layers quantised", metrics["num_layers"]),
        ("held-out texts", metrics["num_texts"]),
        ("answers that stay the same", f"{metrics['same_answers_share']:.2%}"),
    )
    rows = [("texts a second here", speed["before"], speed["after"])]
    return [Section("Quantised", table(("", ""), facts)), Section("Speed", table(("", "before", "after"), rows))]


def _text_quality(metrics: dict[str, Any]) -> list[Section]:
    quality: list[tuple[str, Any, Any]] = [
        ("perplexity on held-out rows", metrics["before"]["perplexity"], metrics["after"]["perplexity"]),
        ("nats per token", metrics["before"]["mean_nats"], metrics["after"]["mean_nats"]),
        ("tokens measured", metrics["before"]["num_tokens"], metrics["after"]["num_tokens"]),
    ]
    answers = metrics.get("answers")
    if answers is not None:
        same = f"{answers['same_answers_share']:.0%} of {answers['num_answers']}"
        quality.append(("greedy answers that stay the same", "", same))
        quality.append(("their tokens up to the first difference", "", f"{answers['same_tokens_share']:.0%}"))
    speed = metrics.get("tokens_per_second")
    if speed is not None:
        on = "on a GPU" if speed["cores"] is None else f"on {speed['cores']} cores"
        name = f"tokens a second here, {speed['batch_sequences']} requests at once {on}"
        quality.append((name, f"{speed['before']:,.0f}", f"{speed['after']:,.0f}"))
    facts = (
        ("model", metrics["model"]),
        ("architecture", metrics["architecture"]),
        ("scheme", metrics["scheme"]),
        ("layers quantised", metrics["num_layers"]),
        ("perplexity ratio", metrics["perplexity_ratio"]),
        ("largest ratio allowed", metrics["allowed_quality_loss"]),
    )
    return [
        Section("Quantised", table(("", ""), facts)),
        Section("Quality and speed" if speed else "Quality", table(("", "before", "after"), quality)),
    ]
