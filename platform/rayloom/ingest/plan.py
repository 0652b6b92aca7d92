"""The plan of an import: source and content, without fetching anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.observe.report_page import Section, table
from rayloom.specs.ingest import HubSource, ImportSpec, ModelContent, NpmSource, PackageSource


def plan(spec: ImportSpec, parents: Mapping[str, Artifact], job_directory: Path) -> PlanSheet:  # noqa: ARG001
    """The source, the content and the licence; warns if the source is not pinned."""
    sheet = PlanSheet()
    source = spec.source
    if isinstance(source, NpmSource):
        sheet.add("npm package", f"{source.package} {source.version}")
    elif isinstance(source, PackageSource):
        sheet.add("package", f"{source.package} {source.version} ({source.archive})")
        sheet.add("SHA-256", source.sha256)
        sheet.add("members", ", ".join(source.members))
    elif isinstance(source, HubSource):
        sheet.add("hub repository", f"{source.repository}@{source.revision}")
        if not _is_commit(source.revision):
            sheet.warnings.append(f"source.revision {source.revision} can move; a commit id pins it")
    else:
        from rayloom.ingest.run import folder_path

        try:
            sheet.add("path", folder_path(source, job_directory))
        except InputError as error:
            sheet.problems.append(str(error))
    content = f"{spec.content.type}"
    if isinstance(spec.content, ModelContent) and spec.content.format == "gguf":
        content += ", converted from GGUF to bf16 safetensors"
    sheet.add("content", content)
    sheet.add("licence", spec.licence)
    if spec.licence == "unknown":
        sheet.warnings.append("the licence is unknown; whatever is made from this inherits that")
    return sheet


def _is_commit(revision: str) -> bool:
    return len(revision) == 40 and all(letter in "0123456789abcdef" for letter in revision)


# Report sections of an imported model or data set: its source and its files.

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
