"""The data browser: rows of an artifact's files, a page at a time, filtered by text or by a field's value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rayloom.artifacts.manifest import Manifest
from rayloom.errors import InputError
from rayloom.ui.pages import page
from rayloom.ui.rows.browsing import browsable
from rayloom.ui.rows.row_page import BrowsedRow, RowFilter, RowPage, shown_value
from rayloom.ui.views.artifacts import manifest_of
from rayloom.ui.workbench import workbench

PAGE_ROWS = 25
EXCERPT_CHARACTERS = 1_200
WHOLE_CHARACTERS = 200_000
MOST_FIELDS = 40


def browse(request: Request) -> Response:
    """A page of rows of one file."""
    manifest, asked = manifest_of(request), request.query_params
    files = browsable(manifest)
    if not files:
        raise InputError(f"{manifest.id} holds no rows", fix="Its page lists its files.")
    path = asked.get("file") or files[0].path
    source = workbench(request).rows.of(manifest, path)
    wanted = RowFilter(asked.get("q", ""), asked.get("field", ""), asked.get("value", ""))
    start, is_one = _number(asked.get("from", "")), asked.get("one") == "yes"
    count = 1 if is_one else PAGE_ROWS
    got = source.search(wanted, start, count) if wanted and not is_one else source.page(start, count)
    longest = WHOLE_CHARACTERS if is_one else EXCERPT_CHARACTERS
    return page(
        request,
        "artifacts/rows.html",
        title=f"Rows of {manifest.name}",
        manifest=manifest,
        files=files,
        path=path,
        asked={name: value for name, value in asked.items() if name != "from"},
        start=start,
        got=got,
        rows=[_shown(row, longest) for row in got.rows],
        is_one=is_one,
        wanted=wanted,
        last=_last_page(got),
        page_size=PAGE_ROWS,
        counted=_counted(manifest, path),
    )


def _number(text: str) -> int:
    """A row's number as written by a person, from 1, or by a link."""
    digits = text.strip().replace(",", "")
    return int(digits) if digits.isdecimal() and len(digits) < 16 else 0


def _last_page(got: RowPage) -> int | None:
    return max(0, (got.num_rows - 1) // PAGE_ROWS * PAGE_ROWS) if got.num_rows is not None else None


COUNTED = (
    ("rejects/", "reason", "dropped"),
    ("dropped.jsonl", "reason", "dropped"),
    ("judgements.jsonl", "outcome", "outcomes"),
    ("judgements.jsonl", "meant", "choices"),
)
"""Files, by the beginning of their names, with the field whose values the metrics of this name count."""


def _counted(manifest: Manifest, path: str) -> tuple[str, dict[str, int]]:
    """A field of a file, and how often it has each value: why rows were dropped, what a judge or people said."""
    for beginning, field, name in COUNTED:
        counts = manifest.metrics.get(name)
        if path.startswith(beginning) and isinstance(counts, dict) and counts:
            return field, {str(value): int(count) for value, count in counts.items()}
    return "", {}


def _shown(row: BrowsedRow, longest: int) -> dict[str, Any]:
    """Number and fields of a row for the template: name, text, whether it was cut, and marked pieces if there are."""
    values = row.values if isinstance(row.values, Mapping) else {"": row.values}
    pieces = values.get("pieces")
    is_marked = isinstance(pieces, list) and "tokens" in values and all(isinstance(p, tuple) for p in pieces)
    hidden = ("pieces", "text") if is_marked else ()
    fields = [_field(name, value, longest) for name, value in list(values.items())[:MOST_FIELDS] if name not in hidden]
    return {"number": row.number, "fields": fields, "pieces": pieces if is_marked else []}


def _field(name: str, value: Any, longest: int) -> dict[str, Any]:
    turns = _turns(value)
    if turns:
        return {"name": name, "turns": [(role, text[:longest]) for role, text in turns], "text": "", "is_cut": False}
    text = shown_value(value)
    return {"name": str(name), "turns": [], "text": text[:longest], "is_cut": len(text) > longest}


def _turns(value: Any) -> list[tuple[str, str]]:
    """Who said what, if a value is a conversation in one of the usual forms."""
    if not isinstance(value, list) or not value or not all(isinstance(turn, Mapping) for turn in value):
        return []
    role, text = next(
        (pair for pair in (("role", "content"), ("from", "value")) if all(set(pair) <= set(turn) for turn in value)),
        ("", ""),
    )
    return [(str(turn[role]), shown_value(turn[text])) for turn in value] if role else []
