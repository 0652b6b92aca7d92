"""A self-contained HTML page of text, tables and charts, without scripts or external files; nested values as rows."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .5rem 0; display: block; overflow-x: auto; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left;
border-bottom: 1px solid #e4e4e4; vertical-align: top; overflow-wrap: break-word; }
th { font-weight: 600; overflow-wrap: normal; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: #f6f6f4; padding: .8rem; overflow-x: auto; white-space: pre-wrap; }
svg { max-width: 100%; height: auto; } .muted { color: #666; }
@media (prefers-color-scheme: dark) { body { background: #16181b; color: #e6e6e6; } th, td { border-color: #333; }
pre { background: #202326; } svg { background: #fff; border-radius: 4px; } .muted { color: #999; } }
"""


@dataclass(frozen=True)
class Section:
    """A heading and the HTML below it. Make the HTML with `table`, `text` and `chart`, which escape their input."""

    title: str
    body: str


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole page as HTML."""
    parts = [f"<h2>{html.escape(section.title)}</h2>\n{section.body}" for section in sections]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f'<h1>{html.escape(title)}</h1>\n<p class="muted">{html.escape(subtitle)}</p>\n' + "\n".join(parts) + "\n"
        "</body></html>\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table; columns that hold only numbers are right-aligned."""
    numeric = [all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    classes = [' class="number"' if is_numeric else "" for is_numeric in numeric]
    head = "".join(f"<th{kind}>{html.escape(name)}</th>" for name, kind in zip(header, classes, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{_shown(value)}</td>' for value, kind in zip(row, classes, strict=True))}</tr>\n"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"


def text(value: str) -> str:
    return f"<pre>{html.escape(value)}</pre>"


def chart(figure: Figure) -> str:
    """A matplotlib figure (object interface, without pyplot) as inline SVG."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight")
    return buffer.getvalue().partition("<svg")[1] + buffer.getvalue().partition("<svg")[2]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else html.escape(str(value)).replace("\n", "<br>")


# Nested values flattened to rows, for tables of metrics and specs.


def metric_rows(values: Any, path: str = "") -> list[tuple[str, Any]]:
    """Dotted path and value of every leaf. Lists of plain values stay one row."""
    if isinstance(values, dict) and values:
        return [row for key, value in values.items() for row in metric_rows(value, f"{path}.{key}" if path else key)]
    is_nested = isinstance(values, list) and any(isinstance(item, dict | list) for item in values)
    if is_nested:
        return [row for index, item in enumerate(values) for row in metric_rows(item, f"{path}.{index}")]
    if isinstance(values, list):
        return [(path, ", ".join(str(item) for item in values))]
    return [] if values is None or values == {} else [(path, values)]
