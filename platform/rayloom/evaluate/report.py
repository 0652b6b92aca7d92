"""An evaluation's part of the report: before and after, limits, and what was said."""

from __future__ import annotations

from rayloom.artifacts.json_lines import read_json_lines
from rayloom.artifacts.store import Artifact
from rayloom.evaluate.checks.checks import PREDICTIONS_NAME, shown
from rayloom.evaluate.checks.task_report import task_sections, written_texts, wrong_texts
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
