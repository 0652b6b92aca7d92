"""Searches for speed: the load under which a service is measured, and the steps of a training job that are timed.

Nothing is trained to its end there. A trial starts the real engine or the real training, measures it, and stops it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rayloom.specs.base import Spec, references
from rayloom.specs.search.space import ModelChoice
from rayloom.specs.search.strategies import AshaScheduler, NoScheduler

if TYPE_CHECKING:
    from rayloom.specs.tune import TuneSpec

SERVING_METRICS = (
    "goodput_tokens_per_second", "goodput_share", "tokens_per_second", "first_token_seconds", "per_token_seconds",
    "seconds_to_start",
)  # fmt: skip
"""Of a trial's service under load. Goodput: tokens of the answers within both bounds of the load. Times: medians."""
TIMED_METRICS = ("tokens_per_second", "train_loss", "peak_memory_bytes")
"""Of a trial's timed steps. The loss is the mean of all of them, those of the warm-up included."""
_UNMEASURED = (
    "kind",
    "name",
    "description",
    "host",
    "port",
    "check",
    "doors",
    "logs",
    "trackers",
    "evaluate_every_steps",
)
"""Fields of a served or training job that its trials leave out or that change no speed."""


class ServingLoad(Spec):
    """The load of each trial's service: clients that each send the next request when they have their answer."""

    clients: Annotated[int, Field(ge=1)] = 32
    """Clients at once; as many answers warm the engine up before they count."""
    seconds: Annotated[float, Field(gt=0)] = 30
    """How long new requests are sent; answers that are still being written then are waited for and count."""
    new_tokens: Annotated[int, Field(ge=2)] = 64
    """Tokens of each answer; none ends earlier."""
    prompts: str | None = None
    """File with one prompt a line: text, or a JSON object with `prompt`. Default: short made-up questions."""
    first_token_seconds: Annotated[float, Field(gt=0)] | None = None
    """Most time to the first token of a good answer. Default: no bound."""
    per_token_seconds: Annotated[float, Field(gt=0)] | None = None
    """Most time between two tokens of a good answer, on average. Default: no bound."""
    start_seconds: Annotated[float, Field(gt=0)] = 600
    """A trial whose engine has not started by then has failed."""


class TimedSteps(Spec):
    """The first steps of the training job, of which those after the warm-up are timed; no model is kept."""

    warm_up_steps: Annotated[int, Field(ge=1)] = 2
    """Steps that are not timed, in which kernels are compiled and memory is taken."""
    steps: Annotated[int, Field(ge=1)] = 5
    """Steps that are timed."""
    loss_difference_share: Annotated[float, Field(gt=0)] = 0.01
    """Largest part by which a trial's loss may differ from that of the first finished one. One that differs more has
    failed: it trains something else."""


def unmeasured_paths(spec: "TuneSpec") -> dict[str, str]:
    """Paths of the space of a search for speed that cannot vary, with the reason."""
    named = [reference.path for reference in references(spec.job)]
    reasons = {}
    for path, dimension in spec.space.items():
        if isinstance(dimension, ModelChoice):
            if path not in named or not path.startswith("models."):
                reasons[path] = "type: model is for the model of a served job, such as models.0.model"
        elif any(f"{name}.".startswith(f"{path}.") for name in named):
            reasons[path] = "names an artifact: list models as `{type: model, values: [artifact:A, artifact:B]}`"
        elif any(isinstance(value, dict) and "model" in value for value in getattr(dimension, "values", ())):
            reasons[path] = "a draft model is an artifact: name it in the job, and vary its num_tokens"
        elif path.partition(".")[0] in _UNMEASURED:
            reasons[path] = "changes nothing that is measured"
    return reasons


def measuring_problems(spec: "TuneSpec") -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Path and text of what does not go with trials that are measured and make no model."""
    if not isinstance(spec.scheduler, NoScheduler) and spec.scheduler != AshaScheduler(type="asha"):
        yield ("scheduler",), f"trials of a search {spec.aim} are measured once, at their end: leave it out"
    if spec.checks or spec.mlflow:
        yield ("checks" if spec.checks else "mlflow",), f"trials of a search {spec.aim} make no model: leave it out"
    if spec.budget.num_steps is not None:
        yield ("budget", "num_steps"), f"a search {spec.aim} is limited by num_trials and wall_seconds"
    if spec.resources.max_concurrent_trials not in (None, 1):
        yield ("resources", "max_concurrent_trials"), "trials would slow each other down: one is measured at a time"
    if spec.serve is not None and not spec.serve.models:
        yield ("serve", "models"), "the load is for a language model, and there is none"
    if spec.train_job is None and spec.timed_steps is not None:
        yield ("timed_steps",), "is for a search over a training job"
