"""The plan of an import: source and content, without fetching anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError, RayloomError
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.observe.report_page import Section, table
from rayloom.specs.ingest import UNKNOWN_LICENCE, HubSource, ImportSpec, ModelContent, NpmSource, PackageSource

MAX_FILES_NAMED = 5


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
        _add_choice(sheet, spec, source)
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
    if spec.licence == UNKNOWN_LICENCE and not isinstance(source, HubSource):
        sheet.warnings.append("the licence is unknown; whatever is made from this inherits that")
    return sheet


def _add_choice(sheet: PlanSheet, spec: ImportSpec, source: HubSource) -> None:
    """What would be fetched now, as the hub says."""
    from rayloom.ingest.hub_repository import choice_of

    try:
        choice = choice_of(spec, source)
    except RayloomError as error:
        sheet.problems.append(str(error))
        return
    if choice.commit != source.revision:
        sheet.warnings.append(f"source.revision {source.revision} can move; the commit id {choice.commit} pins it")
    about = choice.facts["source"]
    if "split" in about:
        sheet.add("subset and split", f"{about['subset']}, {about['split']}")
    named = ", ".join(choice.paths[:MAX_FILES_NAMED]) + (", …" if len(choice.paths) > MAX_FILES_NAMED else "")
    sheet.add("files", f"{len(choice.paths):,}: {named}")
    if spec.licence == UNKNOWN_LICENCE and choice.licence is not None:
        sheet.add("licence of the card", choice.licence)


# Report sections of an imported model or data set: its source and its files.

MAX_FILES_SHOWN = 50


def sections(artifact: Artifact) -> list[Section]:
    """Source, model facts if it is a model, and the largest files."""
    metrics = artifact.manifest.metrics
    made = [Section("Source", table(("", ""), list(metrics["source"].items())))]
    parts = [part for part in ("model", "adapter") if part in metrics]
    made += [Section(part.capitalize(), table(("", ""), list(metrics[part].items()))) for part in parts]
    files = sorted(artifact.manifest.files, key=lambda file: -file.size_bytes)
    rows = [(file.path, file.size_bytes) for file in files[:MAX_FILES_SHOWN]]
    title = f"Files ({len(files):,})" if len(files) <= MAX_FILES_SHOWN else f"Largest of {len(files):,} files"
    made.append(Section(title, table(("file", "bytes"), rows)))
    return made
