"""`rayloom report ARTIFACT`: one self-contained HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from rayloom.artifacts.lineage import Ancestor, lineage
from rayloom.artifacts.manifest import Manifest
from rayloom.artifacts.store import Store
from rayloom.commands.artifacts import store_here
from rayloom.commands.output import size, when
from rayloom.kinds import imported, reporter_of
from rayloom.observe.progress import say
from rayloom.observe.report_page import Section, metric_rows, page, table, text


def report(options: argparse.Namespace) -> None:
    """Writes the page and prints its path."""
    store = store_here()
    manifest = store.resolve(options.artifact)
    output = options.output or Path(f"{manifest.name}-{manifest.version}.html")
    output.write_text(rendered(store, manifest), encoding="utf-8")
    say(f"{output.resolve()} ({size(output.stat().st_size)})")


def rendered(store: Store, manifest: Manifest) -> str:
    """The page: the sections of every artifact, and those of its kind."""
    artifact = store.open(manifest)
    reporter = reporter_of(manifest.kind)
    own: list[Section] = imported(reporter)(artifact) if reporter else []
    sections = [_facts(manifest), *own, _lineage(store, manifest), *_metrics(manifest)]
    sections += [_spec(manifest), _files(manifest), _packages(manifest)]
    return page(manifest.id, manifest.headline or manifest.spec.get("description", ""), sections)


def _facts(manifest: Manifest) -> Section:
    rows = [
        ("kind", manifest.kind),
        ("holds", manifest.content),
        ("description", manifest.spec.get("description", "")),
        ("made", f"{when(manifest.created_at)} UTC, in {manifest.seconds:.1f} s"),
        ("size", size(manifest.size_bytes)),
        ("digest", f"sha256:{manifest.digest}"),
        ("licences", ", ".join(manifest.licences) or "none named"),
    ]
    return Section("What it is", table(("", ""), [row for row in rows if row[1]]))


def _lineage(store: Store, manifest: Manifest) -> Section:
    rows = list(_lineage_rows(lineage(store, manifest), 0))
    return Section("Where it came from", table(("artifact", "as", "kind", "digest", "licences"), rows))


def _lineage_rows(node: Ancestor, depth: int) -> list[tuple[str, ...]]:
    kind = node.manifest.kind if node.manifest else "no longer in the store"
    licences = ", ".join(node.manifest.licences) if node.manifest else ""
    # Spaces that do not break: a deep parent's name would stand below its corner.
    name = "\u00a0" * 3 * depth + ("└\u00a0" if depth else "") + node.id
    row = (name, node.field, kind, node.digest[:12], licences)
    return [row, *(row for parent in node.parents for row in _lineage_rows(parent, depth + 1))]


def _metrics(manifest: Manifest) -> list[Section]:
    rows = metric_rows(manifest.metrics)
    return [Section("Metrics", table(("metric", "value"), rows))] if rows else []


def _spec(manifest: Manifest) -> Section:
    plain = {key: value for key, value in manifest.spec.items() if value is not None}
    return Section("Job", text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)))


def _files(manifest: Manifest) -> Section:
    rows = [(file.path, size(file.size_bytes), file.sha256) for file in manifest.files]
    return Section("Files", table(("file", "size", "SHA-256"), rows))


def _packages(manifest: Manifest) -> Section:
    rows = [("rayloom", manifest.code_version), *manifest.packages.items()]
    return Section("Made by", table(("package", "version"), rows))
