"""The report's sections about a corpus: rows read, rows dropped by reason, documents kept, and samples to read."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

from rayloom.artifacts.store import Artifact
from rayloom.data.rules import registry
from rayloom.observe.report_page import Section, chart, table, text

MAX_EXCERPT_CHARACTERS = 600
MAX_LABELS_SHOWN = 200
MAX_DOUBTFUL_SHOWN = 20


def sections(artifact: Artifact) -> list[Section]:
    """Flow of rows, drops by reason, tokens by domain, lengths, and samples of kept and dropped documents."""
    numbers = artifact.manifest.metrics
    return [
        Section("Rows", _rows(numbers)),
        Section("Dropped by reason", _reasons(numbers)),
        *_notes(numbers),
        *([Section("Tokens by domain", _tokens(numbers))] if "tokens" in numbers else []),
        *_labels(artifact, numbers),
        Section("Lengths of documents that passed the rules", _lengths(numbers)),
        *_examples(artifact),
    ]


def _rows(numbers: dict[str, Any]) -> str:
    of_tokens = {"tokens": "tokens", "bytes": "bytes", "heldout_tokens": "tokens held out"}
    of_rows = {"bytes": "bytes", "train_rows": "training", "validation_rows": "validation", "test_rows": "test"}
    counted = {"rows_in": "rows", "bad_rows": "unreadable", "passed_rules": "passed the rules", "documents": "kept"}
    counted |= of_tokens if "tokens" in numbers else of_rows
    header, names = ("source", *counted.values()), tuple(counted)
    rows = [[source, *(one[name] for name in names)] for source, one in numbers["sources"].items()]
    total = ["all", *(sum(one[name] for one in numbers["sources"].values()) for name in names)]
    return table(header, [*rows, total])


def _reasons(numbers: dict[str, Any]) -> str:
    dropped = numbers["dropped"]
    if not dropped and not numbers["bad"]:
        return text("Nothing was dropped.")
    of_all = {reason: f"{count / numbers['rows_in']:.2%}" for reason, count in dropped.items()}
    rows = [(reason, registry.family_of(reason), count, of_all[reason]) for reason, count in dropped.items()]
    bad = [(f"unreadable: {reason}", "", count, "") for reason, count in numbers["bad"].items()]
    figure = _bars(list(dropped), list(dropped.values()), "documents") if dropped else ""
    return figure + table(("reason", "rule", "documents", "of all rows"), [*rows, *bad])


def _notes(numbers: dict[str, Any]) -> list[Section]:
    """Counts that rules noted in kept documents, such as languages and masked personal data."""
    kinds = [family.notes for family in registry.RULES if numbers.get(family.notes)]
    return [Section(f"Kept documents: {kind}", table((kind, "count"), [*numbers[kind].items()])) for kind in kinds]


def _tokens(numbers: dict[str, Any]) -> str:
    domains = numbers["domains"]
    return _bars(list(domains), [one["tokens"] for one in domains.values()], "tokens")


def _labels(artifact: Artifact, numbers: dict[str, Any]) -> list[Section]:
    """Rows of each label in each part, and rows with conflicting labels."""
    if "labels" not in numbers:
        return []
    parts = list(numbers["labels"])
    rows = [[label, *(numbers["labels"][part][label] for part in parts)] for label in numbers["labels"]["train"]]
    shown = [Section("Labels", table(("label", *parts), rows[:MAX_LABELS_SHOWN]))]
    path = artifact.path / "review" / "likely_wrong_labels.jsonl"
    if path.exists():
        with path.open(encoding="utf-8") as file:
            doubtful = [json.loads(line) for line in itertools.islice(file, MAX_DOUBTFUL_SHOWN)]
        explained = (
            f"{numbers['likely_wrong_labels']:,} groups of duplicates have several labels; all stand in {path.name}."
        )
        shown.append(Section("Labels to check", text(explained) + "".join(map(_example, doubtful))))
    return shown


def _bars(names: list[str], values: list[int], unit: str) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.6 + 0.3 * len(names)))
    axes = figure.subplots()
    bars = axes.barh(names[::-1], values[::-1], color="#4c72b0")
    axes.bar_label(bars, labels=[f"{value:,}" for value in values[::-1]], padding=4)
    axes.margins(x=0.15)
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    return chart(figure)


def _lengths(numbers: dict[str, Any]) -> str:
    from matplotlib.figure import Figure

    by_source: dict[str, Counter[int]] = {}
    for name, count in numbers["lengths"].items():
        source, _, digits = name.rpartition("/")
        by_source.setdefault(source, Counter())[int(digits)] += count
    if not by_source:
        return text("No document passed.")
    digits = range(min(map(min, by_source.values())), max(map(max, by_source.values())) + 1)
    figure = Figure(figsize=(8, 3))
    axes = figure.subplots()
    bottoms = [0] * len(digits)
    for source, counts in by_source.items():
        heights = [counts[digit] for digit in digits]
        axes.bar([f"{1 << digit - 1:,}" for digit in digits], heights, bottom=bottoms, label=source)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    axes.set_xlabel("characters, from this many to twice as many")
    axes.set_ylabel("documents")
    axes.tick_params(axis="x", rotation=45)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return chart(figure)


def _examples(artifact: Artifact) -> list[Section]:
    path = artifact.path / "samples.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_reason.setdefault(row["reason"], []).append(row)
    ordered = sorted(by_reason.items(), key=lambda item: (item[0] != "kept", item[0]))
    return [Section(f"To read: {reason}", "".join(map(_example, group))) for reason, group in ordered]


def _example(row: dict[str, Any]) -> str:
    origin = f"{row['source']}, {row['file']}, row {row['row']}"
    origin += f", label {row['label']}" if "label" in row else ""
    origin = f"{row['group']}: {origin}" if "group" in row else origin
    measured = f", measured {row['value']:g}" if "value" in row else ""
    kept = f", kept instead: {row['kept']['file']} row {row['kept']['row']}" if "kept" in row else ""
    excerpt = row["text"][:MAX_EXCERPT_CHARACTERS]
    return text(f"{origin}{measured}{kept}\n\n{excerpt}{'…' if len(row['text']) > len(excerpt) else ''}")
