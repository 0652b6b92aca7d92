"""A directed graph in layers as SVG: each node right of all that it comes from, with a link and a state.

Layers are longest paths from the sources; inside a layer, nodes stand at the mean place of their neighbours (the
barycentre heuristic of Sugiyama et al. 1981).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from rayloom.ui.pages import templates

WIDTH, HEIGHT, GAP_X, GAP_Y = 220, 48, 56, 18
LONGEST_LABEL = 27
SWEEPS = 4


@dataclass(frozen=True)
class GraphNode:
    """A box with one or two lines."""

    id: str
    label: str
    note: str = ""
    href: str = ""
    state: str = ""
    """Class of its look: `here`, `running`, `finished`, `failed`, `missing`."""


@dataclass(frozen=True)
class GraphEdge:
    """An arrow from one node to another."""

    source: str
    target: str
    label: str = ""


def drawn(nodes: Sequence[GraphNode], edges: Iterable[GraphEdge], title: str) -> str:
    """The graph as SVG; edges of unknown nodes are left out."""
    known = {node.id: node for node in nodes}
    kept = [edge for edge in edges if edge.source in known and edge.target in known and edge.source != edge.target]
    columns = _columns(list(known), kept)
    places = _places(columns)
    boxes = [(known[name], x, y) for name, (x, y) in places.items() if name in known]
    arrows = [(_path([places[name] for name in _stops(edge, columns)]), edge.label) for edge in kept]
    width = max((x for x, _ in places.values()), default=0) + WIDTH + 2
    height = max((y for _, y in places.values()), default=0) + HEIGHT + 2
    template = templates().env.get_template("graph.svg")
    box = {"box_width": WIDTH, "box_height": HEIGHT, "cut": _cut}
    return template.render(boxes=boxes, arrows=arrows, width=width, height=height, title=title, **box)


def _columns(names: Sequence[str], edges: Sequence[GraphEdge]) -> list[list[str]]:
    """The layers, each in its order from above; where an edge passes a layer, it has a place there too."""
    above: dict[str, list[str]] = {name: [] for name in names}
    for edge in edges:
        above[edge.target].append(edge.source)
    depths = layers(above)
    columns: list[list[str]] = [[] for _ in range(max(depths.values(), default=-1) + 1)]
    for name in names:
        columns[depths[name]].append(name)
    beside: dict[str, list[str]] = {}
    for edge in edges:
        first, last = depths[edge.source], depths[edge.target]
        passed = [_passing(edge, depth) for depth in range(first + 1, last)]
        for depth, name in enumerate(passed, first + 1):
            if name not in columns[depth]:
                columns[depth].append(name)
        for one, other in itertools.pairwise((edge.source, *passed, edge.target)):
            beside.setdefault(one, []).append(other)
            beside.setdefault(other, []).append(one)
    for sweep in range(SWEEPS):
        rows = {name: row - len(column) / 2 for column in columns for row, name in enumerate(column)}
        for column in columns if sweep % 2 == 0 else columns[::-1]:
            column.sort(key=lambda name: mean([rows[n] for n in beside.get(name, ())] or [rows[name]]))
            rows |= {name: row - len(column) / 2 for row, name in enumerate(column)}
    return columns


def _passing(edge: GraphEdge, depth: int) -> str:
    """The place of an edge in a layer between its ends."""
    return f"{edge.source} \0 {edge.target} \0 {depth}"


def _stops(edge: GraphEdge, columns: Sequence[Sequence[str]]) -> list[str]:
    between = [name for depth, column in enumerate(columns) if (name := _passing(edge, depth)) in column]
    return [edge.source, *between, edge.target]


def _places(columns: Sequence[Sequence[str]]) -> dict[str, tuple[int, int]]:
    """The left upper corner of each box."""
    tallest = max(map(len, columns), default=1)
    return {
        name: (1 + depth * (WIDTH + GAP_X), 1 + round((row + (tallest - len(column)) / 2) * (HEIGHT + GAP_Y)))
        for depth, column in enumerate(columns)
        for row, name in enumerate(column)
    }


def _path(stops: Sequence[tuple[int, int]]) -> str:
    """A smooth line from the right side of the first box to the left side of the last, through the places between."""
    x, y = stops[0][0] + WIDTH, stops[0][1] + HEIGHT // 2
    path = f"M{x} {y}"
    for number, (left, top) in enumerate(stops[1:], 1):
        is_last, middle = number == len(stops) - 1, top + HEIGHT // 2
        half = (left - x) // 2
        path += f" C{x + half} {y} {left - half} {middle} {left - 6 if is_last else left} {middle}"
        x, y = (left, middle) if is_last else (left + WIDTH, middle)
        path += "" if is_last else f" L{x} {y}"
    return path


def layers(above: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The longest path to each node from one without any above it; a circle counts as broken where it closes."""
    depths: dict[str, int] = {}
    for start in above:
        stack, open_names = [start], set[str]()
        while stack:
            name = stack[-1]
            waiting = [n for n in above[name] if n not in depths and n not in open_names]
            if name in depths or not waiting:
                depths.setdefault(name, max((depths[n] + 1 for n in above[name] if n in depths), default=0))
                open_names.discard(stack.pop())
            else:
                open_names.add(name)
                stack += waiting
    return depths


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
