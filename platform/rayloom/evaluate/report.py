"""An evaluation's part of the report: before and after, limits, and what was said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayloom.artifacts.files import read_json_lines
from rayloom.artifacts.store import Artifact
from rayloom.evaluate.checks.checks import PREDICTIONS_NAME, shown
from rayloom.observe.report_page import Section, table


def sections(artifact: Artifact) -> list[Section]:
    metrics = artifact.manifest.metrics
    roles = [role for role in ("baseline", "model") if role in metrics]
    rows = [(name, *(shown(by_role[role]) for role in roles)) for name, by_role in metrics["checks"].items()]
    header = ("check", *(f"{role}: {metrics[role]}" for role in roles))
    found = [Section("Checks", table(header, rows))]
    if metrics["limits"]:
        limits = [
            (
                item["check"],
                item["limit"],
                float(item["wanted"]),
                float(item["found"]),
                "yes" if item["is_met"] else "NO",
            )
            for item in metrics["limits"]
        ]
        found.append(Section("Limits", table(("check", "limit", "wanted", "found", "kept"), limits)))
    found += task_sections(metrics)
    said = list(read_json_lines(artifact.path / PREDICTIONS_NAME))
    found += wrong_texts([row for row in said if "is_right" in row])
    found += written_texts([row for row in said if "chrf" in row])
    said = [row for row in said if "contains" in row]
    if said:
        answers = [
            (row["check"], row["role"], row["prompt"], row["answer"], "yes" if row["contains"] else "no")
            for row in said
        ]
        found.append(Section("What was said", table(("check", "by", "prompt", "answer", "contains"), answers)))
    return found


# What the report says about a task: scores beside a baseline, each class, confusion, and what was wrong.

FURTHER = ("accuracy", "macro_f1", "micro_f1", "exact_match", "chrf", "bleu", "rouge1", "rouge2", "rouge_l")
MOST_WRONG_SHOWN = 50
TEXT_CHARACTERS = 400


def task_sections(metrics: dict[str, Any]) -> list[Section]:
    """For each check of a task and each model: scores, classes, confusion."""
    found = []
    for name, by_role in metrics["checks"].items():
        for role in ("model", "baseline"):
            measured = by_role.get(role, {})
            if "score_name" in measured:
                found += _of_model(f"{name}: {metrics[role]}", measured, by_role if role == "model" else {})
    return found


def _of_model(title: str, measured: dict[str, Any], by_role: dict[str, Any]) -> list[Section]:
    rows = [(measured["score_name"], float(measured["score"]), _interval(measured["interval"]))]
    further = [
        key
        for key in ("accuracy", "macro_f1", "micro_f1", "exact_match", "chrf", "bleu", "rouge1", "rouge2", "rouge_l")
        if key in measured
    ]
    rows += [(key.replace("_", " "), float(measured[key]), "") for key in further if key != measured["score_name"]]
    beside = measured.get("linear_baseline")
    if beside:
        rows.append(("linear model on the same rows", float(beside["score"]), _interval(beside["interval"])))
        rows.append(("better by", float(beside["difference"]), _interval(beside["difference_interval"])))
    if "difference" in by_role:
        better = float(by_role["difference"])
        rows.append(("better than the baseline by", better, _interval(by_role["difference_interval"])))
    sections = [Section(title, table(("score", "value", "95 % interval"), rows))]
    if "by_class" in measured:
        classes = [
            (label, float(s["precision"]), float(s["recall"]), float(s["f1"]), s["support"])
            for label, s in measured["by_class"].items()
        ]
        sections.append(Section(f"{title}, by class", table(("", "precision", "recall", "F1", "support"), classes)))
    if "tasks" in measured:
        rows = [(task, name, value) for task, found in measured["tasks"].items() for name, value in found.items()]
        sections.append(Section(f"{title}, by task", table(("task", "measure", "value"), rows)))
    if "confusion" in measured:
        labels = measured["confusion"]["labels"]
        counts = zip(labels, measured["confusion"]["counts"], strict=True)
        body = table(("is / was answered", *labels), [(label, *row) for label, row in counts])
        sections.append(Section(f"{title}, confusion", body))
    return sections


def wrong_texts(said: Sequence[dict[str, Any]]) -> list[Section]:
    """The first texts that were answered wrongly."""
    wrong = [row for row in said if not row["is_right"]]
    if not wrong:
        return []
    rows = [
        (
            row["check"],
            row["role"],
            row["origin"],
            " | ".join(part[:TEXT_CHARACTERS] for part in (row.get("pair"), row["text"]) if part),
            ", ".join(row["expected"]) or "nothing",
            ", ".join(row["found"]) or "nothing",
        )
        for row in wrong[:MOST_WRONG_SHOWN]
    ]
    title = f"Wrong answers: {len(wrong):,} of {len(said):,}"
    return [Section(title, table(("check", "by", "row", "text", "expected", "found"), rows))]


def written_texts(said: Sequence[dict[str, Any]]) -> list[Section]:
    """The first texts that were written, beside those expected."""
    if not said:
        return []
    rows = []
    for row in said[:MOST_WRONG_SHOWN]:
        texts = (text[:TEXT_CHARACTERS] for text in (row["text"], *row["expected"], *row["found"]))
        rows.append((row["check"], row["role"], *texts, float(row["chrf"])))
    return [Section("What was written", table(("check", "by", "prompt", "expected", "written", "chrF"), rows))]


def _interval(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:.4f} to {bounds[1]:.4f}"
