"""What a prediction would do, and its part of the report."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path

from rich.text import Text

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import RayloomError
from rayloom.evaluate.prediction.parts import FAILED_FILE, PREDICTIONS_FILE, asked
from rayloom.models.responders.prompted import PromptedModel
from rayloom.models.responders.prompted_rows import rows_to_show
from rayloom.models.responders.responder import task_of
from rayloom.models.responders.subject import Subject
from rayloom.models.vllm_adapter import check_offline, goes_offline
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.observe.report_page import Section, table
from rayloom.reading.files import text_or_table_rows
from rayloom.reading.sources import row_files
from rayloom.specs.predict import PredictSpec
from rayloom.text.labelled.examples import Example

NUM_SHOWN = 100


def plan(spec: PredictSpec, parents: Mapping[str, Artifact], job_directory: Path) -> PlanSheet:
    """The model, the files, the first row, and what would stop the job."""
    sheet = PlanSheet()
    try:
        subject = Subject.of("model", parents["model"], Store.beside(job_directory))
        if spec.prompt is not None:
            shown = rows_to_show(spec.prompt, parents)
            model = PromptedModel(subject, spec.prompt)
            model.check()
        elif task_of(subject) is None:
            subject.renderer.with_kwargs(spec.generation.chat_template_kwargs)
        if goes_offline(spec, subject):
            check_offline(subject)
        files = row_files(spec, parents.get("data"))
        first = next(iter(text_or_table_rows(files, spec)), None)
    except RayloomError as error:
        sheet.problems.append(str(error))
        return sheet
    if spec.prompt is not None:
        does = f"{spec.prompt.task.type.replace('_', ' ')} by a prompt, {spec.prompt.scoring.type}"
    else:
        does = _does(spec, subject)
    sheet.add("model", f"{subject.artifact_id}: {does}")
    sheet.add("files", ", ".join(file.name for file in files[:5]) + (" …" if len(files) > 5 else ""))
    sheet.add("workers", f"{spec.num_workers} of {spec.cpus_per_worker} CPUs, {spec.rows_per_part} rows a part")
    if first is None:
        sheet.problems.append("the files hold no row")
        return sheet
    row = asked(spec, *first)
    sheet.examples.append(Text(f"{first[0]}: {row['text']}", style="dim"))
    if "unreadable" in row:
        sheet.problems.append(f"{first[0]} cannot be read: {row['unreadable']}")
    elif spec.prompt is not None and row["text"] is not None:
        example = Example(str(row["text"]), row.get("pair"))
        first_prompt = model.readable(example, model.demonstrations([example], shown, 0, 0, 1)[0])
        sheet.examples.append(Text(f"the first prompt:\n{first_prompt}", style="dim"))
    elif row["text"] is None:
        known = ", ".join(map(str, first[1])) if isinstance(first[1], Mapping) else type(first[1]).__name__
        sheet.problems.append(f"the first row has no column {spec.text!r}; it has {known}")
    return sheet


def _does(spec: PredictSpec, subject: Subject) -> str:
    task = task_of(subject)
    return f"labels for {task.type}" if task is not None else f"answers in text, by {spec.generation.engine}"


def sections(artifact: Artifact) -> list[Section]:
    """The first predictions, and what failed."""
    made = []
    for title, name in (("Predictions", PREDICTIONS_FILE), ("Failed rows", FAILED_FILE)):
        with (artifact.path / name).open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in itertools.islice(lines, NUM_SHOWN)]
        if rows:
            shown = [(r.pop("origin"), r.pop("text"), json.dumps(r, ensure_ascii=False)) for r in rows]
            made.append(Section(title, table(("row", "text", "found"), shown)))
    return made
