"""The report's sections about a written data set: what was kept and dropped, what it is about, and rows to read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rayloom.artifacts.store import Artifact
from rayloom.observe.report_page import Section, chart, table, text

NUM_SAMPLES = 5
MOST_CHARACTERS = 800


def sections(artifact: Artifact) -> list[Section]:
    """Counts by reason, verbs and nouns, clusters, and samples of kept and dropped rows."""
    numbers = artifact.manifest.metrics
    counts = [("kept", numbers["num_rows"]), *numbers["dropped"].items()]
    made = [Section("Kept and dropped", table(("what became of it", "number"), counts))]
    if any(sum(nouns.values()) > 1 for nouns in numbers["verbs"].values()):
        made.append(Section("Verbs and their nouns", _verbs(numbers["verbs"])))
    if numbers["clusters"]:
        rows = [(" ".join(one["terms"]), one["share"]) for one in numbers["clusters"]]
        made.append(Section("Clusters of prompts", table(("typical words", "share"), rows)))
    return [*made, *_samples(artifact)]


def _samples(artifact: Artifact) -> Iterator[Section]:
    kept = [json.dumps(row, ensure_ascii=False, indent=1) for row in _first(artifact.path / "rows.jsonl", NUM_SAMPLES)]
    yield Section("To read: kept", "".join(text(row[:MOST_CHARACTERS]) for row in kept))
    by_reason: dict[str, list[str]] = {}
    for row in _first(artifact.path / "dropped.jsonl", None):
        shown = by_reason.setdefault(row.pop("reason"), [])
        if len(shown) < NUM_SAMPLES:
            shown.append("\n".join(f"{name}: {value}" for name, value in row.items() if value))
    for reason, rows in sorted(by_reason.items()):
        yield Section(f"To read: {reason}", "".join(text(row[:MOST_CHARACTERS]) for row in rows))


def _first(file: Path, number: int | None) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8", newline="\n") as lines:
        for place, line in enumerate(lines):
            if place == number:
                return
            yield json.loads(line)


def _verbs(verbs: Mapping[str, Mapping[str, int]]) -> str:
    """Verbs in the inner ring, their most frequent nouns outside (as figure 3 of Wang et al. 2022)."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    totals = Counter({verb: sum(nouns.values()) for verb, nouns in verbs.items()})
    colours = [colormaps["tab20"](place % 20) for place in range(len(totals))]
    outer = [
        (noun, count, colour)
        for nouns, colour in zip(verbs.values(), colours, strict=True)
        for noun, count in nouns.items()
    ]
    figure = Figure(figsize=(8, 8))
    axes = figure.subplots()
    edge = {"width": 0.35, "edgecolor": "white"}
    axes.pie(
        list(totals.values()), labels=list(totals), colors=colours, radius=0.7, labeldistance=0.72, wedgeprops=edge,
        rotatelabels=True, textprops={"fontsize": 8}, startangle=90,
    )  # fmt: skip
    axes.pie(
        [count for _, count, _ in outer], labels=[noun for noun, _, _ in outer], rotatelabels=True, wedgeprops=edge,
        colors=[colour if noun else (0.93, 0.93, 0.93, 1) for noun, _, colour in outer], radius=1.05,
        labeldistance=1.02, textprops={"fontsize": 7}, startangle=90,
    )  # fmt: skip
    return chart(figure)
