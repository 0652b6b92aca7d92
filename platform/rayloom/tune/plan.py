"""The plan of a search: its space and first points, how many trials run at once, and problems; nothing is trained."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from rayloom.artifacts.store import Artifact
from rayloom.errors import RayloomError
from rayloom.evaluate.plan import plan as plan_evaluation
from rayloom.models.processor import machine_name
from rayloom.observe.mlflow_experiment import missing_mlflow
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.serve.plan import plan as plan_service
from rayloom.specs.evaluate import EvaluateSpec
from rayloom.specs.search.space import Integer, Listed, LogUniform, Multiple, substituted, values_of
from rayloom.specs.search.strategies import GridSearcher, NoScheduler, PopulationScheduler
from rayloom.specs.serve import ServeSpec
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.hardware import fleet_of
from rayloom.specs.tune import TuneSpec
from rayloom.train.plan import plan as plan_training
from rayloom.train.plan import plan_all as plan_all_training
from rayloom.tune.results import earlier_trials, shown
from rayloom.tune.strategies.history import History
from rayloom.tune.strategies.points import grid_size
from rayloom.tune.strategies.schedulers import bracket_order, grace_steps
from rayloom.tune.strategies.searchers import missing_package, suggested_point
from rayloom.tune.trials.capacity import (
    Amounts,
    bundles_of,
    gpu_memory_problems,
    memory_bytes_per_worker,
    num_concurrent,
)

POINTS_SHOWN = 8


def plan(spec: TuneSpec, parents: Mapping[str, Artifact], job_directory: Path) -> PlanSheet:
    """The space, searcher, scheduler, budget and concurrency, then the plan of one trial's training."""
    return _planned(spec, parents, job_directory, plan_training)


def plan_all(spec: TuneSpec, parents: Mapping[str, Artifact], job_directory: Path) -> PlanSheet:
    """The same after a look at every row."""
    return _planned(spec, parents, job_directory, plan_all_training)


def _planned(
    spec: TuneSpec,
    parents: Mapping[str, Artifact],
    job_directory: Path,
    training: Callable[[TrainSpec, Mapping[str, Artifact], Path], PlanSheet],
) -> PlanSheet:
    sheet = PlanSheet()
    for path, dimension in spec.space.items():
        sheet.add(path, described(dimension))
    if size := grid_size(spec.space):
        sheet.add("combinations", size)
    sheet.add("trials", spec.num_trials or 0)
    _add_searcher(sheet, spec, parents)
    if spec.evaluate is not None:
        sheet.add("in all", f"{spec.num_trials or 0} trials, one at a time, by one model that is loaded once")
        sheet.warnings.append(
            "the winner is chosen by the rows that are tested, and its score is too good: measure best.yaml on others"
        )
    elif spec.measures_speed:
        _add_measuring(sheet, spec)
    else:
        _add_scheduler(sheet, spec)
        _add_budget(sheet, spec)
        _add_room(sheet, spec, parents)
    _add_job(sheet, planned_job(spec, parents, job_directory, training))
    return sheet


def planned_job(
    spec: TuneSpec,
    parents: Mapping[str, Artifact],
    job_directory: Path,
    training: Callable[[TrainSpec, Mapping[str, Artifact], Path], PlanSheet],
) -> PlanSheet:
    """The plan of the job as written; trials differ from it by their searched values. Of prompts, that of the first
    trial: what is written there need not be askable, such as a label that is none of the model's words."""
    prefix = f"{spec.job.kind}."
    own = {path.removeprefix(prefix): artifact for path, artifact in parents.items() if path.startswith(prefix)}
    if isinstance(spec.job, ServeSpec):
        return plan_service(spec.job, own, job_directory)
    if isinstance(spec.job, EvaluateSpec):
        values = values_of(spec.space, suggested_point(spec, History(), 0), spec.plain_job)
        first = EvaluateSpec.model_validate_json(json.dumps(substituted(spec.plain_job, values)), strict=True)
        return plan_evaluation(first, own, job_directory)
    return training(spec.job, own, job_directory)


def described(dimension: Any) -> str:
    """A dimension in words, such as `1 to 8 in steps of 2`."""
    if isinstance(dimension, Listed):
        return " | ".join(shown(list(v) if isinstance(v, tuple) else v) for v in dimension.values)
    if isinstance(dimension, Multiple):
        return f"{' | '.join(f'{times:g}' for times in dimension.times)} × {dimension.of}"
    if isinstance(dimension, Integer):
        step = f" in steps of {dimension.step}" if dimension.step > 1 else ""
        return f"{dimension.low} to {dimension.high}{step}"
    scale = ", each power of ten alike" if isinstance(dimension, LogUniform) else ""
    return f"{dimension.low:g} to {dimension.high:g}{scale}"


def local_node() -> list[dict[str, float]]:
    """The resources of this machine as a list of one node, as an embedded cluster would have them."""
    import torch

    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return [{"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(torch.cuda.device_count()), "memory": memory}]


START_AND_STOP_SECONDS = 60.0
"""Of a trial beside its load: a small model's start on a CPU without compilation, its warm-up and its end."""


def _add_measuring(sheet: PlanSheet, spec: TuneSpec) -> None:
    """Adds what a trial measures, and how long all of them take."""
    sheet.add("measured on", spec.hardware or machine_name())
    trials, steps = spec.num_trials or 0, spec.timed_steps
    if spec.serve is None and steps is not None:
        total = steps.warm_up_steps + steps.steps
        sheet.add("a trial", f"{total} steps, of which the last {steps.steps} are timed, and the start of its workers")
        sheet.add("in all", f"{trials} trials, one at a time: {trials * total} steps")
        return
    load = spec.load
    bounds = {"first token": load.first_token_seconds, "next tokens": load.per_token_seconds}
    said = [f"{name} within {seconds:g} s" for name, seconds in bounds.items() if seconds is not None]
    if not said:
        sheet.warnings.append("no bound on latency: every answer is good (load.first_token_seconds, per_token_seconds)")
    sheet.add("a trial", f"{load.clients} clients for {load.seconds:g} s, {load.new_tokens} tokens an answer")
    sheet.add("a good answer", " and ".join(said) or "any")
    minutes = (load.seconds + START_AND_STOP_SECONDS) / 60
    sheet.add(
        "in all",
        f"{trials} trials × about {minutes:.1f} minutes = {trials * minutes:.0f} minutes; more for a model that takes "
        f"longer than {START_AND_STOP_SECONDS:.0f} s to start and stop",
    )


def _add_searcher(sheet: PlanSheet, spec: TuneSpec, parents: Mapping[str, Artifact]) -> None:
    sheet.add("searcher", f"{spec.searcher.type}, seed {spec.seed}")
    missing = (missing_package(spec), missing_mlflow(spec.mlflow))
    sheet.problems += [problem for problem in missing if problem is not None]
    warm = [artifact for path, artifact in parents.items() if path.startswith("searcher.warm_start.")]
    try:
        earlier = earlier_trials(spec, warm)
    except RayloomError as error:
        sheet.problems.append(str(error))
        return
    if warm:
        sheet.add("known from earlier searches", f"{len(earlier)} trials")
        if not earlier:
            sheet.warnings.append("no trial of the earlier searches lies in this space")
    _add_first_points(sheet, spec, len(earlier))


def _add_first_points(sheet: PlanSheet, spec: TuneSpec, num_earlier: int) -> None:
    """Adds the first points that do not depend on results, such as random ones."""
    random_trials = getattr(spec.searcher, "random_trials", None)
    certain = spec.num_trials or 0
    if random_trials is not None:
        certain = min(certain, max(0, random_trials - num_earlier))
    elif not isinstance(spec.searcher, GridSearcher) and spec.searcher.type != "random":
        return
    table = Table("trial", *spec.space, title="first trials", title_justify="left")
    history = History()
    for number in range(min(certain, POINTS_SHOWN)):
        values = values_of(spec.space, suggested_point(spec, history, number), spec.plain_job)
        table.add_row(str(number), *(shown(values[path]) for path in spec.space))
    if certain:
        sheet.examples.append(table)


def _add_scheduler(sheet: PlanSheet, spec: TuneSpec) -> None:
    scheduler, steps = spec.scheduler, spec.train.num_steps
    if isinstance(scheduler, PopulationScheduler):
        sheet.add(
            "scheduler", f"population: {scheduler.num_members} members exchange every {scheduler.interval_steps} steps"
        )
    elif isinstance(scheduler, NoScheduler):
        sheet.add("scheduler", "none: every trial runs to its end")
    else:
        summary = f"{scheduler.type}: trials are compared from step {grace_steps(spec)} on"
        factor = getattr(scheduler, "reduction_factor", None)
        if factor is not None and steps is not None:
            summary += (
                f", at steps {', '.join(map(str, _rungs(spec, factor, steps))) or 'beyond the end: none is stopped'}"
            )
        if scheduler.type == "hyperband":
            order = bracket_order(scheduler)
            summary += f"; brackets of {len(order)} trials: {' '.join(map(str, order))}"
        sheet.add("scheduler", summary)
    if len(spec.objectives) == 2 and not isinstance(scheduler, NoScheduler):
        metric = spec.objectives[0].metric
        sheet.warnings.append(
            f"{scheduler.type} stops trials by {metric} alone; `scheduler: {{type: none}}` keeps the front"
        )
    if isinstance(spec.searcher, GridSearcher) and (spec.num_trials or 0) < grid_size(spec.space):
        sheet.warnings.append(f"the budget covers {spec.num_trials} of {grid_size(spec.space)} combinations")


def _rungs(spec: TuneSpec, factor: int, steps: int) -> list[int]:
    rung, rungs = grace_steps(spec), []
    while rung < steps:
        rungs.append(rung)
        rung *= factor
    return rungs


def _add_budget(sheet: PlanSheet, spec: TuneSpec) -> None:
    if spec.train.num_steps is not None:
        sheet.add("training steps, at most", (spec.num_trials or 0) * spec.train.num_steps)
    budget = spec.budget
    limits = [f"{budget.num_steps:,} steps"] if budget.num_steps is not None else []
    limits += [f"{budget.seconds:,.0f} s"] if budget.seconds is not None else []
    if limits:
        sheet.add("ends after", " or ".join(limits))
    if budget.seconds is not None and (cost := budget.cost_of(budget.seconds)) is not None:
        sheet.add("costs at most", f"{cost:,.2f}, and what trials take to leave")
    length = spec.train.num_steps
    if length is not None and spec.train.checkpoints.every_steps >= length:
        sheet.warnings.append(
            "trials are shorter than checkpoints.every_steps: one that is killed begins anew (finished ones never do)"
        )


def _add_room(sheet: PlanSheet, spec: TuneSpec, parents: Mapping[str, Artifact]) -> None:
    try:
        memory = memory_bytes_per_worker(spec, parents)
        bundles = bundles_of(spec, memory)
        sheet.add("one trial holds", f"{len(bundles)} × {', '.join(f'{v:,.4g} {k}' for k, v in bundles[0].items())}")
        sheet.add("trials at once", num_concurrent(spec, _nodes(spec), memory))
        sheet.problems += gpu_memory_problems(spec, parents, _gpu_bytes(spec))
    except RayloomError as error:
        sheet.problems.append(str(error))


def _nodes(spec: TuneSpec) -> Sequence[Amounts]:
    """The nodes of `train.hardware`, with unlimited CPUs and memory, which it does not say; otherwise those at hand."""
    if spec.train.hardware is not None:
        fleet = fleet_of(spec.train.hardware)
        return [{"CPU": math.inf, "GPU": float(fleet.devices_per_node), "memory": math.inf}] * fleet.num_nodes
    if os.environ.get("RAY_ADDRESS", "local") == "local":
        return local_node()
    from rayloom.tune.run import cluster_nodes

    return cluster_nodes()


def _gpu_bytes(spec: TuneSpec) -> int | None:
    """Memory of one GPU; None if it is not known on this machine."""
    import torch

    if spec.train.hardware is not None:
        return fleet_of(spec.train.hardware).device.memory_bytes
    is_here = os.environ.get("RAY_ADDRESS", "local") == "local" and torch.cuda.is_available()
    return torch.cuda.get_device_properties(0).total_memory if is_here else None


def _add_job(sheet: PlanSheet, job: PlanSheet) -> None:
    sheet.facts += [(f"trial: {name}", value) for name, value in job.facts]
    sheet.examples += job.examples
    sheet.warnings += [f"trial: {line}" for line in job.warnings]
    sheet.problems += [f"trial: {line}" for line in job.problems]
