"""Searches over prompts: an `evaluate` job asks one model in many ways, of which the best is the result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rayloom.specs.base import references
from rayloom.specs.evaluate import CHECK_METRICS, EvaluateSpec, PromptedCheck

if TYPE_CHECKING:
    from rayloom.specs.tune import TuneSpec


def prompt_metrics(job: EvaluateSpec) -> tuple[str, ...]:
    """The metrics of a trial, as `checks.NAME.KEY`."""
    return tuple(f"checks.{check.name}.{key}" for check in job.checks for key in CHECK_METRICS[check.type])


def fixed_paths(spec: TuneSpec, job: EvaluateSpec) -> dict[str, str]:
    """Paths of the space that must be the same in all trials, with the reason."""
    prompts = [f"checks.{number}.prompt." for number, _ in enumerate(job.checks)]
    named = [reference.path for reference in references(job)]
    reasons = {}
    for path in spec.space:
        if not path.startswith(tuple(prompts)):
            reasons[path] = "is no part of a prompt, such as checks.0.prompt.template: all trials test the same rows"
        elif any(f"{name}.".startswith(f"{path}.") for name in named):
            reasons[path] = "names an artifact, and all trials have the same ones; make a search for each"
    return reasons


def prompt_problems(job: EvaluateSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Path and text of what does not go with a search over prompts."""
    for number, check in enumerate(job.checks):
        if not isinstance(check, PromptedCheck):
            yield ("evaluate", "checks", number), "trials differ by their prompts only: leave checks of other types out"
    for name in ("baseline", "earlier"):
        if getattr(job, name):
            yield ("evaluate", name), "a search asks one model: leave it out"
