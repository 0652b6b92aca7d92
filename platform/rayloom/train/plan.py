"""The plan of a training job, without training: sizes, memory, steps, data, problems and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import RayloomError
from rayloom.observe.memory import available_bytes
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.train import TrainSpec
from rayloom.train.planning.findings import Findings, KeptFindings, amount
from rayloom.train.reporting.trackers import missing_trackers
from rayloom.train.settings import runs_with_other_settings
from rayloom.train.sizes.disk import no_room
from rayloom.train.weights.kernels import missing_kernels


def plan(spec: TrainSpec, parents: Mapping[str, Artifact], job_directory: Path) -> PlanSheet:
    """Facts in reading order, a problem for everything that would make the run fail, and warnings.

    Of many conversations a sample is looked at.
    """
    return _planned(spec, parents, job_directory, may_sample=True)


def plan_all(spec: TrainSpec, parents: Mapping[str, Artifact], job_directory: Path) -> PlanSheet:
    """The same after a look at every row."""
    return _planned(spec, parents, job_directory, may_sample=False)


def _planned(spec: TrainSpec, parents: Mapping[str, Artifact], job_directory: Path, *, may_sample: bool) -> PlanSheet:
    store = Store.beside(job_directory)
    try:
        kept = KeptFindings(spec, parents, store)
        findings = kept.find(may_sample=may_sample)
        if findings is None:
            from rayloom.train.planning.sheet import findings_of  # loads torch and transformers

            findings = findings_of(spec, parents, store, may_sample=may_sample)
            kept.keep(findings, may_sample=may_sample)
    except RayloomError as error:
        findings = Findings(PlanSheet(problems=[str(error)]))
    sheet = deepcopy(findings.sheet)
    missing = missing_trackers(spec) + (missing_kernels(spec) if spec.hardware is None else [])
    sheet.problems = [*missing, *_problem_of_rewards(spec, parents, job_directory), *sheet.problems]
    sheet.warnings = [*runs_with_other_settings(spec, store), *sheet.warnings]
    _add_room_here(sheet, spec, findings, store)
    return sheet


def _problem_of_rewards(spec: TrainSpec, parents: Mapping[str, Artifact], job_directory: Path) -> list[str]:
    """Why one of the rewards, or the environment, cannot work at all."""
    if spec.rewards is None:
        return []
    from rayloom.train.rollouts.turns import check_functions

    try:
        check_functions(spec, parents, job_directory)
    except RayloomError as error:
        return [str(error)]
    return []


def _add_room_here(sheet: PlanSheet, spec: TrainSpec, findings: Findings, store: Store) -> None:
    """Adds that this machine's memory or disk is too small, unless the job runs on other machines."""
    if findings.size is None or spec.hardware is not None:
        return
    error = no_room(spec, findings.size, store.building_directory(spec.name, "planned"))
    if error is not None:
        sheet.problems.append(str(error))
    free = available_bytes()
    if not spec.workers.gpus_per_worker and findings.needed_bytes > free:
        sheet.warnings.append(
            f"the workers need {amount(findings.needed_bytes)} of memory, and {amount(free)} are free here: submit the "
            "job to a larger cluster, lower micro_batch_sequences, or take a method that needs less"
        )
