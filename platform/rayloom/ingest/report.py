"""Report sections of an imported model or data set: its source and its files."""

from __future__ import annotations

from rayloom.artifacts.store import Artifact
from rayloom.observe.report_page import Section, table

MAX_FILES_SHOWN = 50


def sections(artifact: Artifact) -> list[Section]:
    """Source, model facts if it is a model, and the largest files."""
    metrics = artifact.manifest.metrics
    made = [Section("Source", table(("", ""), list(metrics["source"].items())))]
    if "model" in metrics:
        made.append(Section("Model", table(("", ""), list(metrics["model"].items()))))
    files = sorted(artifact.manifest.files, key=lambda file: -file.size_bytes)
    rows = [(file.path, file.size_bytes) for file in files[:MAX_FILES_SHOWN]]
    title = f"Files ({len(files):,})" if len(files) <= MAX_FILES_SHOWN else f"Largest of {len(files):,} files"
    made.append(Section(title, table(("file", "bytes"), rows)))
    return made
