"""Pages about what runs: jobs of this machine and of a cluster, artifacts being made, searches and pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from rayloom.errors import InputError, RayloomError
from rayloom.ui.drawing.curves import Charts, plain
from rayloom.ui.drawing.graph import GraphEdge, GraphNode, drawn
from rayloom.ui.pages import artifact_path, check_may_write, page
from rayloom.ui.running.builds import build_of, builds, charts_of, search_of
from rayloom.ui.running.job_logs import JobRun, engine_output, now, run_of, runs, stop
from rayloom.ui.workbench import Workbench, workbench

MOST_TRIALS_SHOWN = 200
LOOKS = {"finished": "finished", "running": "running", "failed": "failed", "refused": "failed", "stopped": "failed"}


def overview(request: Request) -> Response:
    """What runs now and what ran last."""
    return page(request, "running/running.html", title="Running")


def overview_part(request: Request) -> Response:
    """The part of the page that changes."""
    bench = workbench(request)
    found = runs(bench.store.log_directory)
    unfinished = builds(bench.store, bench.index.view().unfinished)
    cluster = bench.cluster_jobs.refresh() if bench.cluster_jobs else None
    return page(request, "running/running_part.html", runs=found, builds=unfinished, cluster=cluster, now=now())


def job(request: Request) -> Response:
    """One run: how far it is, its stages, its curves and its log."""
    run = _run(request)
    curves = f"/running/jobs/{run.log}/curves.json" if run.state == "running" else ""
    return page(request, "running/job.html", title=run.name, run=run, curves=curves)


def job_part(request: Request) -> Response:
    """The part of a run's page that changes."""
    bench, run = workbench(request), _run(request)
    is_whole = request.query_params.get("engines") == "yes"
    output = engine_output(bench.store.log_directory, run.log) if is_whole else ""
    graph = Markup(_stage_graph(run)) if run.stages else None
    return page(request, "running/job_part.html", run=run, graph=graph, output=output, is_whole=is_whole, now=now())


def stop_job(request: Request) -> Response:
    """Asks a run to save and end."""
    check_may_write(request)
    run = _run(request)
    stop(run)
    return RedirectResponse(f"/running/jobs/{run.log}", 303)


def _run(request: Request) -> JobRun:
    return run_of(workbench(request).store.log_directory, request.path_params["log"])


def job_curves(request: Request) -> Response:
    """The curves of everything that was written to since the run began."""
    bench, run = workbench(request), _run(request)
    found = builds(bench.store, bench.index.view(wait_seconds=0).unfinished)
    charts: dict[str, Charts] = {}
    for build in found:
        if build.is_locked and build.changed >= run.started:
            charts |= {f"{build.name} {name}".strip(): one for name, one in charts_of(bench, build).items()}
    return JSONResponse({"charts": plain(charts), "is_over": run.state != "running"})


def _stage_graph(run: JobRun) -> str:
    """The stages with their states; arrows if the pipeline's file still says them."""
    edges = _needs(run.file)
    names = list(dict.fromkeys([*(edge.source for edge in edges), *(edge.target for edge in edges), *run.stages]))
    nodes = [_stage_node(run, name) for name in names]
    return drawn(nodes, edges, f"Stages of {run.name}")


def _stage_node(run: JobRun, name: str) -> GraphNode:
    state = run.stages.get(name)
    if state is None:
        return GraphNode(name, name, "waiting")
    href = artifact_path(state.artifact) if state.artifact else ""
    return GraphNode(name, name, state.why or state.status, href, LOOKS.get(state.status, ""))


def _needs(file: str) -> list[GraphEdge]:
    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        return [
            GraphEdge(str(need), str(stage["name"])) for stage in values["stages"] for need in stage.get("needs") or ()
        ]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return []


def build(request: Request) -> Response:
    """An artifact that is being made."""
    one = build_of(workbench(request).store, request.path_params["name"], request.path_params["version"])
    return page(request, "running/build.html", title=one.name, build=one)


def build_part(request: Request) -> Response:
    """The trials of a search that is under way."""
    bench = workbench(request)
    try:
        one = build_of(bench.store, request.path_params["name"], request.path_params["version"])
    except InputError:
        made = bench.index.read_now().by_id.get(f"{request.path_params['name']}@{request.path_params['version']}")
        return page(request, "running/build_over.html", made=made)
    search = search_of(bench.store, one) if one.has_trials else None
    trials = search.trials[:MOST_TRIALS_SHOWN] if search else []
    metrics = list(dict.fromkeys(name for trial in trials for name in trial.metrics))[:6]
    return page(request, "running/build_part.html", build=one, search=search, trials=trials, metrics=metrics, now=now())


def build_curves(request: Request) -> Response:
    """The points so far."""
    bench = workbench(request)
    try:
        one = build_of(bench.store, request.path_params["name"], request.path_params["version"])
    except InputError:
        return JSONResponse({"charts": [], "is_over": True})
    return JSONResponse({"charts": plain(charts_of(bench, one)), "is_over": False})


def cluster_job(request: Request) -> Response:
    """One job of the cluster with the end of its log."""
    return page(request, "running/cluster_job.html", title="Job on the cluster", id=request.path_params["id"])


def cluster_job_part(request: Request) -> Response:
    """State and log of a job of the cluster."""
    bench, values = workbench(request), dict[str, Any](job=None, log="", problem="")
    try:
        values["job"] = _cluster_job(bench, request.path_params["id"])
        values["log"] = bench.cluster_jobs.log(values["job"]) if bench.cluster_jobs else ""
    except RayloomError as error:
        values["problem"] = str(error)
    return page(request, "running/cluster_job_part.html", **values)


def stop_cluster_job(request: Request) -> Response:
    """Asks a job of the cluster to save and end."""
    check_may_write(request)
    bench = workbench(request)
    found = _cluster_job(bench, request.path_params["id"])
    assert bench.cluster_jobs is not None
    bench.cluster_jobs.api.stop(found.id)
    return RedirectResponse(f"/running/cluster/{found.id}", 303)


def _cluster_job(bench: Workbench, id_: str) -> Any:
    if bench.cluster_jobs is None:
        raise InputError(
            "This server knows no cluster", fix="Name its dashboard: `rayloom ui --address http://HEAD:8265`."
        )
    found = next((job for job in bench.cluster_jobs.refresh().jobs if job.id == id_), None)
    if found is None and bench.cluster_jobs.problem:
        raise RayloomError(bench.cluster_jobs.problem)
    if found is None:
        raise InputError(f"There is no job {id_} on the cluster", where=bench.cluster_jobs.address)
    return found
