"""Pages from templates: everything that is filled in is escaped, and an error is a page that says what to do."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from rayloom.commands.output import size, when
from rayloom.errors import InputError, RayloomError, SpecError, unwrapped

NOT_FOUND, UNUSABLE, FORBIDDEN = 404, 422, 403
MOST_FORM_BYTES = 4 << 20
NAVIGATION = (
    ("/", "Artifacts"),
    ("/running", "Running"),
    ("/services", "Services"),
    ("/editor", "Job editor"),
    ("/playground", "Playground"),
)


@functools.cache
def templates() -> Jinja2Templates:
    environment = Environment(
        loader=PackageLoader("rayloom.ui"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_encodable,
    )
    environment.filters |= {"size": size, "when": when, "short": short, "number": number, "ago": ago}
    environment.globals |= {"artifact_path": artifact_path, "query": query, "asset": asset, "navigation": NAVIGATION}
    return Jinja2Templates(env=environment)


def _encodable(value: Any) -> Any:
    """What is filled in, with half of a surrogate pair as `\\ud800`: JSON can hold one, UTF-8 and so a page cannot."""
    return type(value)(value.encode("utf-8", "backslashreplace").decode()) if isinstance(value, str) else value


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """The page, or a part of one."""
    values |= {"access": request.app.state.workbench.access, "store_uri": request.app.state.workbench.store.uri}
    return templates().TemplateResponse(request, template, values, status_code=status)


def error_page(request: Request, error: Exception, status: int | None = None) -> Response:
    """What went wrong, for every exception that a page raises."""
    meant = unwrapped(error)
    problems = meant.problems if isinstance(meant, SpecError) else ()
    known = NOT_FOUND if isinstance(meant, InputError) else UNUSABLE if isinstance(meant, SpecError) else 500
    return page(request, "error.html", status or known, title="This did not work", error=meant, problems=problems)


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form. Raises InputError if it is too large."""
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > MOST_FORM_BYTES:
            raise InputError(f"This is more than {size(MOST_FORM_BYTES)}", fix="Send less.")
    return dict(parse_qsl(content.decode("utf-8", "replace"), keep_blank_values=True))


def check_may_write(request: Request) -> None:
    """Raises RayloomError if this server only reads."""
    if not request.app.state.workbench.access.may_write:
        raise RayloomError("This server only reads", fix="Start it with `rayloom ui --write` to change things here.")


# Filters and functions of the templates.


def artifact_path(artifact_id: str, *parts: str) -> str:
    """The address of an artifact's page, or of what is below it."""
    name, _, version = artifact_id.partition("@")
    return "/".join(["/artifacts", quote(name, safe=""), quote(version, safe=""), *parts])


def query(values: Mapping[str, Any], **changes: Any) -> str:
    """The query of an address with changes; empty values are left out."""
    merged = {**values, **changes}
    return "?" + urlencode(
        {name: value for name, value in merged.items() if value not in ("", None, False)}, doseq=True
    )


@functools.cache
def asset(name: str) -> str:
    """The address of a script or style, with a digest so that a new one is fetched."""
    content = files("rayloom.ui").joinpath("static", *name.split("/")).read_bytes()
    return f"/static/{name}?{hashlib.sha256(content).hexdigest()[:12]}"


class _StaticFiles(StaticFiles):
    """Scripts and styles; their addresses change with their content, so browsers may keep them."""

    def file_response(self, *arguments: object, **settings: object) -> Response:
        answer = super().file_response(*arguments, **settings)  # type: ignore[arg-type]
        answer.headers["cache-control"] = "private, max-age=31536000"
        return answer


def assets() -> Mount:
    """Where an application has its scripts and styles."""
    with as_file(files("rayloom.ui").joinpath("static")) as static:
        return Mount("/static", _StaticFiles(directory=Path(static)))


def short(artifact_id: str) -> str:
    """`loomie@1234abcd` for people: the beginning of a version is enough."""
    name, _, version = artifact_id.partition("@")
    return f"{name}@{version[:8]}"


def number(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def ago(seconds: float) -> str:
    """`3 min` from a number of seconds."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
