"""`rayloom plan`: what a job, or every job of a pipeline, would do."""

from __future__ import annotations

import argparse

from rich.text import Text

from rayloom.artifacts.store import Store
from rayloom.dispatch import load_job, resolve
from rayloom.errors import InputError
from rayloom.kinds import KINDS, imported
from rayloom.observe.progress import console
from rayloom.pipeline.graph import StageJob, load_stages, outside_references
from rayloom.specs.base import references
from rayloom.specs.files.load import Job
from rayloom.specs.one_task import OneTaskSpec
from rayloom.specs.pipeline import PipelineSpec

PROBLEM_EXIT_CODE = 2


def plan(options: argparse.Namespace) -> int:
    """Prints what a job would do. Returns 2 if it would fail."""
    job = load_job(options.file, options.set)
    store = Store.beside(job.directory)
    if isinstance(job.spec, PipelineSpec):
        return _plan_pipeline(job.spec, job, store, options.all)
    return PROBLEM_EXIT_CODE if _plan_job(job, store, options.all, options.probe) else 0


def _plan_job(job: Job, store: Store, is_whole: bool, is_probing: bool = False) -> bool:
    """Prints one job's plan and, if `is_probing`, what a probe measured. Returns whether there is a problem.

    `is_whole`: whether large data are looked at as a whole.
    """
    resolved = resolve(job, store, fetch=False)
    known = store.manifest(job.spec.name, resolved.version)
    kind = KINDS[job.spec.kind]
    planner = kind.whole_planner if is_whole and kind.whole_planner else kind.planner
    sheet = imported(planner)(resolved.spec, resolved.parents, job.directory)
    if isinstance(resolved.spec, OneTaskSpec):
        from rayloom.submit.resource_requests import task_memory_bytes

        (bundle, *_), memory = resolved.spec.bundles(), task_memory_bytes(resolved.parents, store)
        gpus = f", {bundle.gpus:g} GPU" if bundle.gpus else ""
        sheet.add("on a cluster", f"one task of {bundle.cpus:g} CPU{gpus} and about {memory / 1e9:,.1f} GB")
    console().print(sheet.rendered())
    prober = kind.prober
    if is_probing and prober is not None and not sheet.problems:
        console().print(imported(prober)(resolved.spec, resolved.parents, job.directory).rendered())
    elif is_probing and prober is None:
        console().print(Text(f"a {job.spec.kind} job has nothing to probe"))
    state = "finished already; running it only finds it" if known else "not made yet"
    console().print(Text(f"result: {job.spec.name}@{resolved.version}, {state}"))
    return bool(sheet.problems)


def _plan_pipeline(spec: PipelineSpec, pipeline: Job, store: Store, is_whole: bool) -> int:
    """Prints the graph, then the plan of each stage whose input artifacts exist."""
    stages = load_stages(spec, pipeline, load_job)
    width = max(len(item.stage.name) for item in stages)
    for item in stages:
        after = f"after {', '.join(item.stage.needs)}" if item.stage.needs else "at once"
        console().print(Text(f"{item.stage.name:<{width}}  {item.job.spec.kind:<8}  {after}"))
    failing = bool(missing_inputs(stages, store))
    for item in stages:
        console().print(Text(f"\n{item.stage.name} ({item.job.file.name})", style="bold"))
        makers = _unmade(item, stages, store)
        if makers:
            console().print(Text(f"after {', '.join(makers)}: the artifacts that it needs are not made yet"))
            continue
        try:
            failing |= _plan_job(item.job, store, is_whole)
        except InputError as error:
            console().print(Text(f"problem: {error}", style="red"))
            failing = True
    return PROBLEM_EXIT_CODE if failing else 0


def _unmade(item: StageJob, stages: list[StageJob], store: Store) -> list[str]:
    """The stages whose artifacts this one uses, if those are not in the store for the stages' present specs."""
    made_by = {other.job.spec.name: other for other in stages}
    used = {reference.text.removeprefix("artifact:") for reference in references(item.job.spec)}
    makers = [made_by[name] for name in used if name in made_by]
    return sorted(maker.stage.name for maker in makers if _unmade(maker, stages, store) or not _is_made(maker, store))


def _is_made(item: StageJob, store: Store) -> bool:
    try:
        version = resolve(item.job, store, fetch=False).version
    except InputError:
        return False
    return store.manifest(item.job.spec.name, version) is not None


def missing_inputs(stages: list[StageJob], store: Store) -> list[str]:
    """One line for each input artifact that no stage makes and the store lacks."""
    missing = []
    for item, reference in outside_references(stages):
        try:
            store.resolve(reference.text)
        except InputError:
            missing.append(f"stage {item.stage.name} uses {reference.text} in {reference.path}, which no stage makes")
    return missing
