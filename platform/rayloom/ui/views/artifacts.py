"""Pages about artifacts: the list, one with its report and files, and its lineage as a graph."""

from __future__ import annotations

from typing import Any

import yaml
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from rayloom.artifacts.manifest import Manifest
from rayloom.errors import RayloomError
from rayloom.observe.report_page import metric_rows
from rayloom.ui.drawing.graph import GraphEdge, GraphNode, drawn
from rayloom.ui.pages import artifact_path, page, short
from rayloom.ui.rows.browsing import browsable
from rayloom.ui.store_index import Entry, StoreView, choices
from rayloom.ui.views.compare import training_logs
from rayloom.ui.workbench import workbench

PAGE_ARTIFACTS = 100
MOST_GRAPH_NODES = 80
MOST_FILES = 500
CHART_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"


def overview(request: Request) -> Response:
    """All artifacts, newest first, filtered by words, kind and content."""
    asked = request.query_params
    view = workbench(request).index.view()
    wanted = {name: asked.get(name, "") for name in ("q", "kind", "holds")}
    only_current = asked.get("all", "") != "yes"
    found = view.matching(wanted["q"], wanted["kind"], wanted["holds"], only_current)
    if asked.get("order") == "name":
        found = sorted(found, key=lambda entry: (entry.name, entry.created_at))
    elif asked.get("order") == "size":
        found = sorted(found, key=lambda entry: -entry.size_bytes)
    start = _whole_number(asked.get("from", ""))
    return page(
        request,
        "artifacts/artifacts.html",
        title="Artifacts",
        view=view,
        found=len(found),
        shown=found[start : start + PAGE_ARTIFACTS],
        start=start,
        page_size=PAGE_ARTIFACTS,
        asked=dict(asked),
        kinds=choices(view.entries, "kind"),
        contents=choices(view.entries, "content"),
    )


def _whole_number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 16 else 0


def manifest_of(request: Request) -> Manifest:
    """The artifact in the address. Raises InputError if there is none."""
    return workbench(request).manifest(request.path_params["name"], request.path_params["version"])


def one(request: Request) -> Response:
    """An artifact: what it is, its report (fetched when the page is there), job, files and packages."""
    manifest, bench = manifest_of(request), workbench(request)
    spec = {key: value for key, value in manifest.spec.items() if value is not None}
    return page(
        request,
        "artifacts/artifact.html",
        title=manifest.id,
        manifest=manifest,
        is_current=manifest.id in bench.index.view().current,
        place=bench.store.open(manifest).place,
        spec=yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, width=100),
        metrics=metric_rows(manifest.metrics),
        files=manifest.files[:MOST_FILES],
        browsable=browsable(manifest),
        has_curves=bool(training_logs(manifest)),
        children=bench.index.view().children.get(manifest.id, ()),
    )


def report(request: Request) -> Response:
    """The part of the page that the artifact's kind fills."""
    manifest = manifest_of(request)
    try:
        sections, problem = workbench(request).reports.of(manifest), ""
    except RayloomError as error:
        sections, problem = [], str(error)
    # The bodies were made with `table` and `text` of the reports, which escape what they are given.
    bodies = [Markup(section.body) for section in sections]
    return page(request, "artifacts/report.html", id=manifest.id, sections=sections, bodies=bodies, problem=problem)


def chart(request: Request) -> Response:
    """One chart of a report as an image, which may have styles and nothing else."""
    sections = workbench(request).reports.of(manifest_of(request))
    section, number = request.path_params["section"], request.path_params["number"]
    if section >= len(sections) or number >= len(sections[section].charts):
        raise HTTPException(404, "There is no such chart")
    svg = sections[section].charts[number]
    svg = svg if "xmlns=" in svg else svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return Response(svg, media_type="image/svg+xml", headers={"content-security-policy": CHART_POLICY})


def file(request: Request) -> Response:
    """A file of the artifact, to be saved: never shown by the browser, whatever is in it."""
    manifest, path = manifest_of(request), request.query_params.get("path", "")
    if path not in {entry.path for entry in manifest.files}:
        raise HTTPException(404, "The artifact has no such file")
    whole = workbench(request).store.open(manifest).path / path
    if not whole.is_file():
        raise HTTPException(404, "This file of the artifact is missing")
    headers = {"content-security-policy": "default-src 'none'; sandbox"}
    return FileResponse(whole, filename=whole.name, media_type="application/octet-stream", headers=headers)


def lineage(request: Request) -> Response:
    """All that an artifact was made from, and all that was made from it, as a graph."""
    manifest, view = manifest_of(request), workbench(request).index.view()
    nodes, edges, left_out = _family(manifest, view)
    svg = Markup(drawn(nodes, edges, f"Lineage of {manifest.id}"))
    return page(
        request, "artifacts/lineage.html", title=f"Lineage of {manifest.name}", manifest=manifest, svg=svg,
        left_out=left_out, nodes=nodes, edges=edges,
    )  # fmt: skip


def _family(manifest: Manifest, view: StoreView) -> tuple[list[GraphNode], list[GraphEdge], int]:
    """Nodes and edges of the graph, nearest first, and how many had no room."""
    own = tuple((parent.field, f"{parent.name}@{parent.version}") for parent in manifest.parents)
    parents: dict[str, tuple[tuple[str, str], ...]] = {manifest.id: own}
    ids, left_out = {manifest.id: None}, 0
    up, down = [manifest.id], [manifest.id]
    while up or down:
        further = [parent for id_ in up for _, parent in _parents(id_, view, parents)]
        later = [child for id_ in down for child in view.children.get(id_, ())]
        up, down = (
            [i for i in dict.fromkeys(further) if i not in ids],
            [i for i in dict.fromkeys(later) if i not in ids],
        )
        room = max(0, MOST_GRAPH_NODES - len(ids))
        left_out += max(0, len(up) + len(down) - room)
        up, down = up[:room], down[: max(0, room - len(up))]
        ids |= dict.fromkeys((*up, *down))
    edges = [GraphEdge(parent, id_, field) for id_ in ids for field, parent in _parents(id_, view, parents)]
    return [_node(id_, manifest, view) for id_ in ids], edges, left_out


def _parents(id_: str, view: StoreView, known: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    entry = view.by_id.get(id_)
    return known.get(id_) or (entry.parents if entry else ())


def _node(id_: str, manifest: Manifest, view: StoreView) -> GraphNode:
    entry: Entry | None = view.by_id.get(id_)
    if entry is None and id_ != manifest.id:
        return GraphNode(id_, short(id_), "no longer in the store", state="missing")
    kind = entry.kind if entry else manifest.kind
    href = f"{artifact_path(id_, 'lineage')}"
    return GraphNode(id_, short(id_), kind, href, state="here" if id_ == manifest.id else "")
