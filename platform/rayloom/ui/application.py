"""The application: which address is answered by which function."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rayloom.errors import InputError, RayloomError
from rayloom.ui.pages import assets, error_page
from rayloom.ui.protection import Protection
from rayloom.ui.views import artifacts, compare, editor, playground, rows, running, services
from rayloom.ui.workbench import Workbench

ONE = "/artifacts/{name}/{version}"
JOB, BUILD, CLUSTER_JOB = "/running/jobs/{log}", "/running/builds/{name}/{version}", "/running/cluster/{id}"
ROUTES = (
    Route("/", artifacts.overview),
    Route(ONE, artifacts.one),
    Route(f"{ONE}/report", artifacts.report),
    Route(f"{ONE}/charts/{{section:int}}/{{number:int}}.svg", artifacts.chart),
    Route(f"{ONE}/lineage", artifacts.lineage),
    Route(f"{ONE}/file", artifacts.file),
    Route(f"{ONE}/rows", rows.browse),
    Route("/compare", compare.compare),
    Route("/curves.json", compare.curves),
    Route("/running", running.overview),
    Route("/running/part", running.overview_part),
    Route(JOB, running.job),
    Route(f"{JOB}/part", running.job_part),
    Route(f"{JOB}/curves.json", running.job_curves),
    Route(f"{JOB}/stop", running.stop_job, methods=["POST"]),
    Route(BUILD, running.build),
    Route(f"{BUILD}/part", running.build_part),
    Route(f"{BUILD}/curves.json", running.build_curves),
    Route(CLUSTER_JOB, running.cluster_job),
    Route(f"{CLUSTER_JOB}/part", running.cluster_job_part),
    Route(f"{CLUSTER_JOB}/stop", running.stop_cluster_job, methods=["POST"]),
    Route("/editor", editor.edit),
    Route("/editor/check", editor.check, methods=["POST"]),
    Route("/editor/change", editor.change, methods=["POST"]),
    Route("/editor/act", editor.act, methods=["POST"]),
    Route("/playground", playground.overview),
    Route("/playground/ask", playground.ask, methods=["POST"]),
    Route("/services", services.overview),
    Route("/services/part", services.overview_part),
)


def application(workbench: Workbench) -> ASGIApp:
    """The ASGI application over one store. The protection is outermost, so that error pages have its headers too."""
    handlers = {HTTPException: _not_found, RayloomError: _failed, Exception: _failed}
    app = Starlette(routes=[*ROUTES, assets()], exception_handlers=handlers)
    app.state.workbench = workbench
    return Protection(app, workbench.access)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = InputError(f"{error.detail}", where=request.url.path, fix="The start page lists what there is.")
    return error_page(request, problem, error.status_code)


async def _failed(request: Request, error: Exception) -> Response:
    return error_page(request, error)
