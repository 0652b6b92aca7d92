"""`rayloom artifacts list|show|lineage|verify|gc`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.text import Text
from rich.tree import Tree

from rayloom.artifacts.collect import Removal, named, remove, scan, unfinished
from rayloom.artifacts.lineage import Ancestor, damage
from rayloom.artifacts.lineage import lineage as lineage_of
from rayloom.artifacts.manifest import Manifest
from rayloom.artifacts.store import Store
from rayloom.commands.output import console, emit_json, plain_table, size, when
from rayloom.errors import InputError
from rayloom.observe.progress import progress, say
from rayloom.observe.report_page import metric_rows

DAMAGED_EXIT_CODE = InputError.exit_code


def store_here() -> Store:
    """The store of the current folder, for commands that name no job file."""
    return Store.beside(Path.cwd())


def list_all(options: argparse.Namespace) -> int:
    """Prints the current version of every name, or all versions."""
    store = store_here()
    rows = [(key, entry) for key, entry in scan(store) if options.name in (None, key[0])]
    if options.name is not None and not rows:
        store.resolve(options.name)  # raises InputError if there is none
    everything = options.all or options.name is not None
    finished = [entry for _, entry in rows if isinstance(entry, Manifest)]
    current = {m.id for m in finished if store.current_version(m.name) in (m.version, None)}
    shown = sorted((m for m in finished if everything or m.id in current), key=lambda m: (m.name, m.created_at))
    damaged = [entry for _, entry in rows if isinstance(entry, InputError)]
    if options.json:
        emit_json([_summary(manifest) | {"is_current": manifest.id in current} for manifest in shown])
    else:
        table = plain_table("artifact", "kind", "holds", "made (UTC)", "size", "result")
        for manifest in shown:
            name = Text(manifest.id, style="" if manifest.id in current else "dim")
            made, bulk = when(manifest.created_at), size(manifest.size_bytes)
            table.add_row(name, manifest.kind, manifest.content, made, bulk, Text(manifest.headline))
        if shown:
            console().print(table)
        else:
            say(f"There is no finished artifact in {store.uri}; `rayloom run FILE` makes one.")
    for error in damaged:
        say(f"error: {error}")
    return DAMAGED_EXIT_CODE if damaged else 0


def show(options: argparse.Namespace) -> None:
    """Prints everything in a manifest."""
    store = store_here()
    manifest = store.resolve(options.artifact)
    if options.json:
        emit_json(manifest.model_dump(mode="json") | _summary(manifest))
        return
    out = console()
    facts = plain_table("", "")
    facts.show_header = False
    for name, value in (
        ("artifact", manifest.id),
        ("kind", f"{manifest.kind}, holds a {manifest.content}"),
        ("result", manifest.headline),
        ("made", f"{when(manifest.created_at)} UTC in {manifest.seconds:.1f} s"),
        ("digest", manifest.digest),
        ("licences", ", ".join(manifest.licences)),
        ("made from", ", ".join(f"{p.name}@{p.version} ({p.field})" for p in manifest.parents)),
        ("by", f"rayloom {manifest.code_version}, " + ", ".join(f"{n} {v}" for n, v in manifest.packages.items())),
        ("place", store.location(manifest.name, manifest.version)),
    ):
        if value:
            facts.add_row(Text(name, style="bold"), Text(value))
    out.print(facts)
    for title, rows in (("spec", metric_rows(manifest.spec)), ("metrics", metric_rows(manifest.metrics))):
        if rows:
            table = plain_table(title, "")
            for path, value in rows:
                table.add_row(Text(path), Text(str(value)))
            out.print()
            out.print(table)
    files = plain_table("file", "size", "sha256")
    for file in manifest.files:
        files.add_row(Text(file.path), size(file.size_bytes), file.sha256)
    out.print()
    out.print(files)


def lineage(options: argparse.Namespace) -> None:
    """Prints the tree of ancestors back to the sources, with licences and digests."""
    store = store_here()
    root = lineage_of(store, store.resolve(options.artifact))
    if options.json:
        emit_json(_lineage_values(root))
    else:
        console().print(_tree(root, Tree(_node(root))))


def _tree(node: Ancestor, tree: Tree) -> Tree:
    for parent in node.parents:
        _tree(parent, tree.add(_node(parent)))
    return tree


def _node(node: Ancestor) -> Text:
    text = Text(node.id, style="bold")
    field = f"  {node.field}" if node.field else ""
    if node.manifest is None:
        return text.append(f"{field}  no longer in the store  sha256:{node.digest[:12]}", style="red not bold")
    facts = f"{field}  {node.manifest.kind}, {node.manifest.content}, {size(node.manifest.size_bytes)}"
    licences = ", ".join(node.manifest.licences) or "no licence named"
    text.append(f"{facts}  sha256:{node.digest[:12]}  {licences}", style="not bold")
    source = _source(node.manifest)
    if source:
        text.append(f"  from {source}", style="cyan not bold")
    if node.is_changed:
        text.append("  the store now holds another content under this id", style="red not bold")
    return text


def _source(manifest: Manifest) -> str:
    """The source of an imported artifact, in one line."""
    source = manifest.spec.get("source") if manifest.kind == "import" else None
    if not isinstance(source, dict):
        return ""
    if source.get("type") in ("package", "npm"):
        return f"package {source.get('package')} {source.get('version')}"
    if source.get("type") == "hub":
        fetched = manifest.metrics.get("source", {})
        commit = fetched.get("commit") or source.get("revision")
        part = "/".join(fetched[name] for name in ("subset", "split") if fetched.get(name))
        return f"hf://{source.get('repository')}@{commit}" + (f" ({part})" if part else "")
    return str(source.get("path", ""))


def _lineage_values(node: Ancestor) -> dict[str, Any]:
    return {
        "field": node.field,
        "id": node.id,
        "digest": node.digest,
        "in_store": node.manifest is not None,
        "is_changed": node.is_changed,
        "kind": node.manifest.kind if node.manifest else None,
        "licences": list(node.manifest.licences) if node.manifest else [],
        "source": _source(node.manifest) if node.manifest else "",
        "parents": [_lineage_values(parent) for parent in node.parents],
    }


def verify(options: argparse.Namespace) -> int:
    """Compares every file with its digest in the manifest. Returns 3 if something differs."""
    store = store_here()
    manifests: list[Manifest | InputError] = [store.resolve(reference) for reference in options.artifacts]
    if not options.artifacts:
        manifests = [manifest for _, manifest in scan(store) if manifest is not None]
    damages: dict[str, list[str]] = {}
    total = sum(manifest.size_bytes for manifest in manifests if isinstance(manifest, Manifest))
    with progress("verifying", total, "bytes") as bar:
        for manifest in manifests:
            if isinstance(manifest, InputError):
                damages[manifest.where] = [manifest.what]
            else:
                damages[manifest.id] = damage(store, manifest, bar.advance)
    if options.json:
        emit_json([{"id": name, "damage": lines} for name, lines in damages.items()])
    else:
        for name, lines in damages.items():
            console().print(Text(f"{name}: {'; '.join(lines) if lines else 'whole'}", style="red" if lines else ""))
    return DAMAGED_EXIT_CODE if any(damages.values()) else 0


def gc(options: argparse.Namespace) -> None:
    """Lists what would be removed, and removes it with --delete."""
    store = store_here()
    removals = named(store, options.artifacts, options.force) if options.artifacts else unfinished(store)
    if options.delete:
        for removal in removals:
            remove(store, removal)
    if options.json:
        emit_json([_removal(removal) | {"removed": options.delete} for removal in removals])
        return
    table = plain_table("artifact", "why", "size")
    for removal in removals:
        table.add_row(removal.id, removal.reason, size(removal.size_bytes))
    if removals:
        console().print(table)
    total = size(sum(removal.size_bytes for removal in removals))
    say(_verdict(bool(removals), options.delete, total))


def _verdict(any_found: bool, deleted: bool, total: str) -> str:
    if not any_found:
        return "Nothing to remove."
    return f"Removed {total}." if deleted else f"Would remove {total}; --delete does it."


def _removal(removal: Removal) -> dict[str, Any]:
    return {"id": removal.id, "reason": removal.reason, "size_bytes": removal.size_bytes}


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "id": manifest.id,
        "kind": manifest.kind,
        "content": manifest.content,
        "created_at": manifest.created_at,
        "digest": manifest.digest,
        "size_bytes": manifest.size_bytes,
        "headline": manifest.headline,
    }
