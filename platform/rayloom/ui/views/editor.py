"""The job editor: a job file as text and as a form, checked as one types, planned at a press, run or submitted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from rayloom.commands.explain import wishes
from rayloom.commands.shipped import templates as starters
from rayloom.errors import InputError, RayloomError
from rayloom.kinds import SPECS
from rayloom.ui.editing import job_file
from rayloom.ui.editing.form_fields import form_of
from rayloom.ui.editing.yaml_edit import MISSING, changed
from rayloom.ui.pages import check_may_write, page, templates
from rayloom.ui.pages import form_of as sent
from rayloom.ui.workbench import Workbench, workbench

DEFAULT_STARTER = "finetune"


def edit(request: Request) -> Response:
    """The editor with a starter, or with the job of an artifact."""
    asked, bench = request.query_params, workbench(request)
    text = starters().get(asked.get("starter", DEFAULT_STARTER), starters()[DEFAULT_STARTER])
    if "artifact" in asked:
        manifest = bench.manifest(*asked["artifact"].partition("@")[::2])
        plain = {key: value for key, value in manifest.spec.items() if value is not None}
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
    return page(
        request,
        "editor/editor.html",
        title="Job editor",
        text=text,
        wishes=wishes(),
        starter=asked.get("starter", DEFAULT_STARTER),
        folder=bench.folder,
        cluster=bench.cluster,
        **_state(request, text),
    )


def _state(request: Request, text: str) -> dict[str, Any]:
    """Form and problems of a text."""
    bench = workbench(request)
    values = _values(text)
    kind = values.get("kind")
    known = isinstance(kind, str) and kind in SPECS
    return {
        "kind": kind if known else "",
        "fields": form_of(kind, SPECS[kind], values) if known and isinstance(kind, str) else (),
        "verdict": job_file.verdict(text, bench.folder / "job.yaml", bench.access.may_write),
    }


def _values(text: str) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


async def check(request: Request) -> Response:
    """What is wrong with the text, and its form anew."""
    fields = await sent(request)
    return await run_in_threadpool(_checked, request, fields.get("text", ""))


def _checked(request: Request, text: str) -> Response:
    environment, state = templates().env, _state(request, text)
    return JSONResponse(
        {
            "text": text,
            "form": environment.get_template("editor/editor_form.html").render(**state),
            "verdict": environment.get_template("editor/editor_verdict.html").render(**state),
        }
    )


async def change(request: Request) -> Response:
    """The text with one value changed by the form."""
    fields = await sent(request)
    path = [int(part) if part.isdecimal() else part for part in fields.get("path", "").split(".")]
    try:
        given = fields.get("value", "").strip()
        value = yaml.safe_load(given) if given else MISSING
        text = changed(fields.get("text", ""), path, value)
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        return JSONResponse({"problem": f"This is no value: {' '.join(str(error).split())[:300]}"}, 422)
    return await run_in_threadpool(_checked, request, text)


async def act(request: Request) -> Response:
    """Plans, saves, runs or submits the text."""
    check_may_write(request)
    fields = await sent(request)
    return await run_in_threadpool(_acted, request, fields)


def _acted(request: Request, fields: Mapping[str, str]) -> Response:
    bench, text = workbench(request), fields.get("text", "").replace("\r\n", "\n")
    file = job_file.place(bench.folder, fields.get("file", ""))
    action = fields.get("action", "")
    if action == "plan":
        code, said = job_file.plan(text, file, bench.store.uri)
        return page(request, "editor/editor_output.html", title="Plan", code=code, said=said, file=file)
    job_file.save(text, file, may_replace=fields.get("replace") == "yes")
    if action == "save":
        return page(request, "editor/editor_output.html", title="Saved", code=0, said="", file=file)
    if action == "submit":
        if bench.cluster is None:
            raise InputError(
                "This server knows no cluster", fix="Start it with `rayloom ui --address http://HEAD:8265`."
            )
        code, said = job_file.submit(file, bench.store.uri, bench.cluster)
        return page(request, "editor/editor_output.html", title="Submitted", code=code, said=said, file=file)
    if action != "run":
        raise InputError(f"{action!r} is nothing that can be done with a job file")
    return _started(bench, file)


def _started(bench: Workbench, file: Path) -> Response:
    log = job_file.run(file, bench.store.uri, bench.store.log_directory)
    if not log:
        fix = f"`rayloom run {file}` on the command line says why."
        raise RayloomError("The job was started and has not written a log", where=str(file), fix=fix)
    return RedirectResponse(f"/running/jobs/{log}", 303)
