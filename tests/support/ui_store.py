"""Small artifacts of several kinds, written as jobs write them, and the state of a server over their store."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayloom.artifacts.manifest import MANIFEST_NAME, Manifest, Parent, file_entries
from rayloom.artifacts.store import CURRENT_NAME, Store
from rayloom.ui.protection import Access
from rayloom.ui.workbench import Workbench

PORT = 8500
_REASONS = ("not_english", "too_short")
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def published(
    store: Store,
    name: str,
    version: str,
    *,
    kind: str = "import",
    content: str = "dataset",
    files: dict[str, str] | None = None,
    parents: Sequence[Manifest] = (),
    spec: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    headline: str = "",
    made: str = "2026-11-29T10:00:00.000+00:00",
) -> Manifest:
    """An artifact with these files. It is not flushed to the disk, which would take a second for each hundred."""
    folder = Path(store.location(name, version))
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in (files or {"note.txt": "a note\n"}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    manifest = Manifest(
        kind=kind,
        name=name,
        version=version,
        content=content,  # type: ignore[arg-type]
        created_at=made,
        seconds=1.5,
        spec={"kind": kind, "name": name, **(spec or {})},
        stage_version=1,
        parents=tuple(
            Parent(field=f"parents.{number}", name=one.name, version=one.version, digest=one.digest)
            for number, one in enumerate(parents)
        ),
        licences=("Apache-2.0",),
        code_version="0.2.0",
        packages={"ray": "2.60.0"},
        headline=headline,
        metrics=metrics or {},
        files=file_entries(folder),
    )
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(), encoding="utf-8")
    (folder.parent / CURRENT_NAME).write_text(json.dumps({"version": version}), encoding="utf-8")
    return manifest


def training_log(num_steps: int, rate: float = 0.02) -> str:
    """The log of a training whose loss falls."""
    events: list[dict[str, Any]] = [{"event": "heldout", "step": 0, "name": "heldout", "loss": 4.0, "perplexity": 54.6}]
    for step in range(1, num_steps + 1):
        loss = 1.5 + 2.5 * math.exp(-rate * step)
        values = {"loss": loss, "learning_rate": 1e-3, "gradient_norm": 1.0, "tokens": 1024, "seconds": 0.5}
        events.append({"event": "step", "step": step, **values})
    events.append({"event": "heldout", "step": num_steps, "name": "heldout", "loss": 1.6, "perplexity": 4.95})
    return "".join(json.dumps(event) + "\n" for event in events)


def trained(store: Store, name: str, version: str, parents: Sequence[Manifest], rate: float = 0.02) -> Manifest:
    """A training's result."""
    log = training_log(120, rate)
    measured = {"before": {"loss": 4.0, "perplexity": 54.6}, "after": {"loss": 1.6, "perplexity": 4.95}, "labels": 900}
    return published(
        store,
        name,
        version,
        kind="train",
        content="adapter",
        files={"metrics.jsonl": log, "adapter_config.json": "{}"},
        parents=parents,
        spec={"learning_rate": rate / 20, "adapter": {"type": "lora", "rank": 16}},
        metrics={"heldout": {"heldout": measured}, "steps": 120, "tokens_per_second": 2048.5},
        headline=f"held-out loss 4 to {1.6 + rate:.3f}",
        made="2026-11-29T12:00:00.000+00:00",
    )


def family(store: Store) -> list[Manifest]:
    """A data set, a corpus with rejects, a base, two trainings and a merged model."""
    lines = [{"text": f"Row {n} says hello.", "label": "odd" if n % 2 else "even"} for n in range(400)]
    rows = published(store, "rows", "aaaa00000001", files={"rows.jsonl": json_lines(lines), "table.csv": "a,b\n1,2\n"})
    rejects = [{"source": "web", "row": n, "reason": _REASONS[n % 3 > 0], "text": f"text {n}"} for n in range(90)]
    corpus = published(
        store,
        "corpus",
        "cccc00000001",
        kind="clean",
        content="corpus",
        files={"rejects/rules.jsonl": json_lines(rejects)},
        parents=[rows],
        metrics={"dropped": {"too_short": 60, "not_english": 30}},
        headline="310 of 400 documents kept",
    )
    base = published(store, "base", "bbbb00000001", content="model", files={"config.json": "{}"})
    first = trained(store, "adapter", "dddd00000001", [base, corpus], 0.02)
    second = trained(store, "adapter", "dddd00000002", [base, corpus], 0.05)
    files = {"config.json": "{}"}
    merged = published(store, "merged", "eeee1", kind="merge", content="model", files=files, parents=[second, base])
    return [rows, corpus, base, first, second, merged]


def json_lines(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def workbench(folder: Path, **access: Any) -> Workbench:
    """A server's state over an empty store in a folder."""
    store = Store(str(folder / "store"), cache=folder / "cache")
    Path(store.root).mkdir(parents=True, exist_ok=True)
    return Workbench(store, Access(PORT, **access), folder=folder)
