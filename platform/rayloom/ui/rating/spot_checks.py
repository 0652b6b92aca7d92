"""Spot checks of cleaning: rows that rules dropped, as many of each rule as of any other, and rows that were kept."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rayloom.artifacts.files import read_json_lines
from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.ui.rating.items import KEPT, RatedItem, row_item

NOT_REJECTED = ("unreadable", "contamination")
"""Files below rejects/ whose lines are no dropped rows."""
SHARDS, TOKENIZER, ROWS = "train/index.json", "tokenizer/tokenizer.json", "train.jsonl"


def spot_check(artifact: Artifact, most: int, seed: int) -> list[RatedItem]:
    """At most so many rows of each rule, drawn evenly from all that it dropped, and as many that were kept.

    Raises InputError if nothing was dropped.
    """
    drawn = {
        reason: rows
        for reason, rows in drawn_by_reason(_rejects(artifact), most, seed).items()
        if reason != KEPT  # a rule of that name would be taken for what was kept
    }
    if not drawn:
        raise InputError(f"{artifact.id} keeps no dropped row", fix="Cleaning writes them to rejects/, by reason.")
    drawn[KEPT] = [row | {"reason": KEPT} for row in _kept(artifact, most, seed)]
    return [row_item(row, number, "text") for rows in drawn.values() for number, row in enumerate(rows)]


def drawn_by_reason(rows: Iterable[Mapping[str, Any]], most: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """A sample of each reason, read once and whatever their number (Vitter 1985, algorithm R)."""
    dice = random.Random(seed)
    found: dict[str, list[dict[str, Any]]] = {}
    seen: dict[str, int] = {}
    for row in rows:
        reason = str(row.get("reason", ""))
        count = seen[reason] = seen.get(reason, 0) + 1
        if count <= most:
            found.setdefault(reason, []).append(dict(row))
        elif (place := dice.randrange(count)) < most:
            found[reason][place] = dict(row)
    return found


def _rejects(artifact: Artifact) -> Iterator[Mapping[str, Any]]:
    for entry in artifact.manifest.files:
        folder, _, name = entry.path.partition("/")
        if folder == "rejects" and name.endswith(".jsonl") and not name.startswith(NOT_REJECTED):
            yield from read_json_lines(artifact.path / entry.path)


def _kept(artifact: Artifact, most: int, seed: int) -> list[dict[str, Any]]:
    files = {entry.path for entry in artifact.manifest.files}
    if ROWS in files:
        rows = ({"reason": KEPT, **row} for row in read_json_lines(artifact.path / ROWS))
        return drawn_by_reason(rows, most, seed).get(KEPT, [])
    if not {SHARDS, TOKENIZER} <= files:
        return []
    from rayloom.ui.rows.documents import BrowsedDocuments

    documents = BrowsedDocuments((artifact.path / SHARDS).parent, artifact.path / TOKENIZER)
    numbers = random.Random(seed).sample(range(documents.num_rows), min(most, documents.num_rows))
    return [{"text": documents.page(number, 1).rows[0].values["text"]} for number in sorted(numbers)]
