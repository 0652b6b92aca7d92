"""An evaluation's part of the report: before and after, limits, and what was said."""

from __future__ import annotations

from rayloom.artifacts.files import read_json_lines
from rayloom.artifacts.store import Artifact
from rayloom.evaluate.checks.registry import CHECKS
from rayloom.evaluate.run import PREDICTIONS_NAME
from rayloom.evaluate.sequence import sequence_sections, stage_name
from rayloom.observe.report_page import Section, table


def sections(artifact: Artifact) -> list[Section]:
    metrics = artifact.manifest.metrics
    checks = {spec["name"]: CHECKS[spec["type"]] for spec in artifact.manifest.spec["checks"]}
    earlier = [role for role in metrics if role.startswith("earlier.")]
    roles = [role for role in ("baseline", *earlier, "model") if role in metrics]
    rows = [
        (name, *(checks[name].shown(by_role[role]) for role in roles)) for name, by_role in metrics["checks"].items()
    ]
    header = ("check", *(f"{stage_name(role)}: {metrics[role]}" for role in roles))
    made = [Section("Checks", table(header, rows))]
    if "sequence" in metrics:
        made = sequence_sections(metrics["sequence"]) + made
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
        made.append(Section("Limits", table(("check", "limit", "wanted", "found", "kept"), limits)))
    for name, by_role in metrics["checks"].items():
        better = {key: value for key, value in by_role.items() if key not in roles}
        for role in reversed(roles):
            title = f"{name}: {metrics[role]}"
            made += checks[name].sections(title, by_role[role], better if role == "model" else {})
    predictions = list(read_json_lines(artifact.path / PREDICTIONS_NAME))
    for texts in dict.fromkeys(check.texts for check in CHECKS.values()):
        made += texts([row for row in predictions if checks[row["check"]].texts is texts])
    return made
