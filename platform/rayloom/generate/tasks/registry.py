"""The task of each type, opened with its prompts, filters and rows.

To add one, write a spec in `specs/generation/tasks.py`, a class in this folder, its prompts, and a line below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rayloom.artifacts.store import Artifact
from rayloom.generate.agreement import agreement_by
from rayloom.generate.filters.registry import Filters
from rayloom.generate.given import Given, given_rows, read_seeds
from rayloom.generate.prompts import Prompts
from rayloom.generate.tasks.answered import Consistency, Labels, TeacherAnswers
from rayloom.generate.tasks.judged import BestOf, Pairs
from rayloom.generate.tasks.rewritten import Evolve, Paraphrase
from rayloom.generate.tasks.self_instruct import SelfInstruct
from rayloom.generate.tasks.task import Maker, Task
from rayloom.reading.files import RowFile
from rayloom.rewards.opening import OpenReward, check_rows, fields_of
from rayloom.specs.generate import GenerateSpec
from rayloom.specs.generation.tasks import BestOfTask, ConsistencyTask, PairsTask, SelfInstructTask

TASKS: dict[str, Callable[[Maker, Iterator[Given], Any], Task]] = {
    "answers": TeacherAnswers,
    "labels": Labels,
    "evolve": Evolve,
    "paraphrase": Paraphrase,
}
"""Tasks that need nothing but their rows."""


def opened(
    spec: GenerateSpec,
    prompts: Prompts,
    files: Sequence[RowFile],
    parents: Mapping[str, Artifact],
    rewards: Sequence[OpenReward] = (),
) -> Task:
    """The task. Raises InputError if seeds cannot be used, or rows lack what a reward needs."""
    if isinstance(spec.task, SelfInstructTask):
        seeds = read_seeds(spec.task, files)
        filters = Filters(spec.filters, [seed.text for seed in seeds])
        return SelfInstruct(Maker(spec, prompts, filters), spec.task, seeds)
    maker, rows = Maker(spec, prompts, Filters(spec.filters)), given_rows(spec.task.data, files)
    if isinstance(spec.task, ConsistencyTask):
        embedder = parents.get("task.embedder")
        return Consistency(maker, rows, spec.task, agreement_by(spec.task, embedder.path if embedder else None))
    if isinstance(spec.task, BestOfTask | PairsTask):
        checked = given_rows(spec.task.data, files) if spec.rewards else ()
        check_rows(fields_of(spec.rewards), ((row.origin, row.values) for row in checked if row.problem is None))
        judged = BestOf if isinstance(spec.task, BestOfTask) else Pairs
        return judged(maker, rows, spec.task, rewards)
    return TASKS[spec.task.type](maker, rows, spec.task)
