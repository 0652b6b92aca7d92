"""What a generating job would do: the model, the rows or seeds, and the first prompt as it would be asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rich.text import Text

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import RayloomError
from rayloom.generate.prompts import Prompts
from rayloom.generate.tasks.registry import opened
from rayloom.generate.writers import writing_subject
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.reading.sources import row_files
from rayloom.specs.generate import GenerateSpec
from rayloom.specs.generation.engines import EndpointEngine, Engine


def plan(spec: GenerateSpec, parents: Mapping[str, Artifact], job_directory: Path) -> PlanSheet:
    """The writers, the first requests, and what would stop the job. Nothing is asked."""
    sheet = PlanSheet()
    for role, engine in (("engine", spec.engine), ("judge", spec.judge)):
        if engine is not None:
            add_writer(sheet, role, engine, parents, job_directory)
    try:
        prompts = Prompts(None if spec.prompts is None else job_directory / Path(spec.prompts).expanduser())
        files = row_files(spec.source, parents.get(f"{spec.source_path}.dataset"))
        sheet.add("files", ", ".join(file.name for file in files[:5]) + (" …" if len(files) > 5 else ""))
        task = opened(spec, prompts, files, {})
        steps = task.round(0)
        asks = next(steps) if steps is not None else ()
    except StopIteration as done:
        sheet.problems.append(f"no row of the first round can be used: {done.value.dropped[:3]}")
        return sheet
    except RayloomError as error:
        sheet.problems.append(str(error))
        return sheet
    if not asks:
        sheet.problems.append("the files hold no row")
        return sheet
    sheet.add("task", f"{spec.task.type}, prompts {', '.join(task.prompt_names)}")
    sheet.add(
        "first round", f"{len(asks):,} requests at first, of up to {spec.sampling.max_new_tokens} new tokens each"
    )
    sheet.examples.append(Text(f"{asks[0].key}:\n{asks[0].prompt}", style="dim"))
    return sheet


def add_writer(
    sheet: PlanSheet,
    role: str,
    engine: Engine,
    parents: Mapping[str, Artifact],
    job_directory: Path,
    shown: str | None = None,
) -> None:
    """Says what writes, and what would keep it from writing."""
    if isinstance(engine, EndpointEngine):
        sheet.add(shown or role, f"{engine.model} at {engine.url}")
        if engine.api_key_variable is not None and not os.environ.get(engine.api_key_variable):
            sheet.problems.append(f"{role}: the environment variable {engine.api_key_variable} is not set here")
        if engine.licence is None:
            sheet.warnings.append(f"{role}: no licence is named, so the result's lineage will not say one")
        return
    try:
        subject = writing_subject(role, parents[f"{role}.model"], Store.beside(job_directory))
        if engine.form == "chat":
            subject.renderer.with_kwargs(engine.chat_template_kwargs)
    except RayloomError as error:
        sheet.problems.append(f"{error} form: completion needs no chat template.")
        return
    sheet.add(shown or role, f"{subject.artifact_id} by vLLM, {engine.num_workers} × {engine.cpus_per_worker} CPUs")
