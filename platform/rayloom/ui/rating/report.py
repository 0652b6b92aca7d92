"""The report's sections about a rating: who wins or which rules are right, agreement, and judgements to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rayloom.artifacts.files import read_json_lines
from rayloom.artifacts.store import Artifact
from rayloom.generate.comparing.report import bias, shares, standings
from rayloom.observe.report_page import Section, table

NUM_SAMPLES = 12
MOST_CHARACTERS = 500


def sections(artifact: Artifact) -> list[Section]:
    """Wins and strengths, or precision by rule; agreement; order and length; notes and judgements."""
    numbers = artifact.manifest.metrics
    made = standings(numbers)
    if "precision" in numbers:
        made.append(Section("Was it right?", _precision(numbers["precision"])))
    agreed = dict(numbers["agreement"])
    if numbers.get("judge_and_people"):
        agreed["the judge, and most people"] = numbers["judge_and_people"]
    if agreed:
        rows = [(who, one["kappa"], f"{one['same_share']:.1%}", one["num_items"]) for who, one in agreed.items()]
        made.append(Section("Agreement", table(("who", "Cohen's κ", "same choice", "items"), rows)))
    if "left" in numbers:
        position = {"position": {"first_place": numbers["left"]}, "longer_wins": numbers["longer_wins"]}
        made.append(Section("What else moves people", bias(position)))
    return [*made, *_samples(artifact)]


def _precision(precision: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (
            reason,
            f"{one['precision']:.1%}",
            shares((one["low"], one["high"])),
            one["num_judged"],
            f"{one['num_rows']:,}" if "num_rows" in one else "",
            f"{one['wrong_rows']:,} ({one['wrong_rows_interval'][0]:,} to {one['wrong_rows_interval'][1]:,})"
            if "num_rows" in one
            else "",
        )
        for reason, one in sorted(precision.items(), key=lambda item: item[1]["precision"])
    ]
    return table(("of", "right", "95 % interval", "judged", "rows in all", "of these likely wrong"), rows)


def _samples(artifact: Artifact) -> Iterator[Section]:
    """Judgements with a note first, then those of rows that are wrong."""
    judgements = sorted(
        read_json_lines(artifact.path / "judgements.jsonl"), key=lambda one: (not one["note"], one["meant"] != "wrong")
    )
    rows = [
        (
            one["rater"],
            f"{one['reason']}: {one['meant']}" if one["reason"] else one.get(one["meant"], one["meant"]),
            one["note"],
            one["prompt"][:MOST_CHARACTERS],
            "\n".join(
                f"[{name}] {text[:MOST_CHARACTERS]}" if name else text[:MOST_CHARACTERS]
                for name, text in zip((one.get("first"), one.get("second")), one["answers"], strict=False)
            ),
        )
        for one in judgements[:NUM_SAMPLES]
    ]
    yield Section("Judgements to read", table(("by", "choice", "note", "prompt", "text"), rows))
