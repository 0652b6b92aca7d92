"""`teacher` and `keep_layers` of a training job: another model whose distributions are learned beside the labels.

Also which layers of a base a smaller student begins with.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from rayloom.specs.base import Spec, TunedRef
from rayloom.specs.training.adapters import is_whole_model
from rayloom.specs.training.tasks import QuestionAnswering, SequenceToSequence

if TYPE_CHECKING:
    from rayloom.specs.train import TrainSpec


class ForwardKl(Spec):
    """KL(teacher ‖ student): the student learns all that the teacher finds probable (Hinton et al. 2015,
    arXiv:1503.02531)."""

    type: Literal["forward_kl"]


class ReverseKl(Spec):
    """KL(student ‖ teacher): a student too small for all of it keeps to what the teacher finds most probable (Gu et al.
    2023, arXiv:2306.08543)."""

    type: Literal["reverse_kl"]


class JensenShannon(Spec):
    """Generalised Jensen–Shannon divergence, between the two (Agarwal et al. 2023, arXiv:2306.13649, section 2)."""

    type: Literal["jensen_shannon"]
    teacher_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share β of the teacher in the mixture from which both are measured: near 0 as forward_kl, near 1 as
    reverse_kl."""


Divergence = Annotated[ForwardKl | ReverseKl | JensenShannon, Field(discriminator="type")]
Temperature = Annotated[float, Field(gt=0)]
TeacherWeight = Annotated[float, Field(gt=0, le=1)]


class Recorded(Spec):
    """The teacher's most probable tokens at each label, computed once into the store, for all jobs on the same rows.

    What is not recorded counts as one token more, so that the divergence is a little less than the whole one. Takes 6
    bytes a label and token; the store must be a folder.
    """

    top_k: Annotated[int, Field(ge=1, le=1024)] = 64
    """Tokens that are kept for each label."""


class Teacher(Spec):
    """A frozen model with the same vocabulary or labels, computed beside the student on the same rows.

    The loss is (1 − weight) × label loss + weight × temperature² × divergence, at the positions that have labels, and
    what `hidden_states_weight` adds.
    Held-out losses are those of the labels alone.
    """

    model: TunedRef
    """The teacher: a model, or an adapter on its base. Each worker holds all of it."""
    divergence: Divergence = ForwardKl(type="forward_kl")
    """How the distance between the two distributions is measured."""
    temperature: Temperature = 1.0
    """Divides the logits of both. Above 1, improbable tokens and labels count more (Hinton et al. 2015, section 2)."""
    weight: TeacherWeight = 0.5
    """Share of the teacher in the loss. 1: the labels themselves do not count."""
    hidden_states_weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Weight of the distance between the states inside both models, for a student of `keep_layers`.

    Each layer of the student learns what the same layer of the teacher gives on, and the last what the last one does:
    the mean over layers of ‖student − teacher‖² / ‖teacher‖², added to the loss of a position (Sanh et al. 2019,
    arXiv:1910.01108, section 3; Jiao et al. 2020, arXiv:1909.10351, equation 8, with relative distances). A student
    that lacks layers finds its way back in far fewer tokens. Default: only the distributions are learned."""
    recorded: Recorded | None = None
    """Compute the teacher once, not at every step. For the causal objective. Default: beside the student."""


def _check_order(layers: tuple[int, ...]) -> tuple[int, ...]:
    if list(layers) != sorted(set(layers)):
        raise ValueError("must name layers in rising order, each once")
    return layers


KeptLayers = (
    Annotated[int, Field(ge=1)]
    | Annotated[
        tuple[Annotated[int, Field(ge=0)], ...],
        Field(min_length=1),
        AfterValidator(_check_order),
    ]
)
"""A number of layers, or indices."""

ANSWERS_INSTEAD = "let it answer your prompts in a `generate` job, and train on its answers"
"""What works with every teacher."""


def check_teaching(spec: "TrainSpec") -> None:
    """Raises ValueError if a teacher, or fewer layers, do not fit the rest of the spec."""
    if spec.keep_layers is not None and (spec.base is None or not is_whole_model(spec.adapter)):
        raise ValueError("keep_layers makes a smaller whole model of a base: give base, and leave adapter out")
    if spec.keep_layers is not None and isinstance(spec.task, SequenceToSequence):
        raise ValueError("keep_layers does not know which layers of an encoder-decoder belong together")
    if spec.teacher_in_use is None:
        return
    if spec.policy is not None:
        raise ValueError("a policy learns from rewards, which a teacher does not give: leave one out")
    if spec.teacher is not None and spec.teacher.recorded is not None:
        _check_recorded(spec, spec.teacher)
    if spec.teacher is not None and spec.teacher.hidden_states_weight is not None:
        _check_hidden_states(spec)
    if spec.preference is not None:
        raise ValueError("a preference compares with the model before training, not with a teacher: leave one out")
    if isinstance(spec.task, QuestionAnswering | SequenceToSequence) or spec.objective_in_use.type == "span":
        named = spec.objective_in_use.type if spec.task is None else spec.task.type
        raise ValueError(
            f"a teacher is for the objectives causal and masked, for classification and tagging, not for {named}: "
            f"{ANSWERS_INSTEAD}"
        )


def _check_hidden_states(spec: "TrainSpec") -> None:
    if spec.keep_layers is None:
        raise ValueError("teacher.hidden_states_weight is for the layers that keep_layers keeps: give both, or neither")
    if spec.task is not None:
        what = "teacher.hidden_states_weight is for causal and masked models"
        raise ValueError(f"{what}, not for {spec.task.type}: leave it out")
    if spec.compile:
        raise ValueError("compile is not proven with teacher.hidden_states_weight: leave one out")


def _check_recorded(spec: "TrainSpec", teacher: Teacher) -> None:
    if spec.task is not None or spec.objective_in_use.type != "causal":
        raise ValueError("teacher.recorded is of rows that are the same in every epoch: for the causal objective only")
    if teacher.temperature != 1:
        raise ValueError("teacher.recorded keeps the distribution at temperature 1: leave temperature out")
    if teacher.hidden_states_weight is not None:
        raise ValueError("teacher.recorded keeps no hidden states for hidden_states_weight: leave one of them out")
    if spec.is_streamed:
        raise ValueError("teacher.recorded needs the rows on this machine: leave data.streamed out")
