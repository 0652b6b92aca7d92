"""`retain` and `fisher` of a training job: what keeps a model from forgetting what it learned before.

`replay` mixes old text into the new; these hold the weights or the answers of the base instead, and can be combined.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rayloom.specs.base import AdapterRef, Spec, refuse_repeated
from rayloom.specs.training.adapters import LoraAdapter, is_whole_model
from rayloom.specs.training.teacher import Divergence, ForwardKl, Teacher, TeacherWeight, Temperature

if TYPE_CHECKING:
    from rayloom.specs.train import TrainSpec

Strength = Annotated[float, Field(gt=0)]


class ElasticWeights(Spec):
    """Elastic weight consolidation: adds strength / 2 × Σ F (θ − θ₀)², which holds weights the more, the more they
    mattered to the base's task (Kirkpatrick et al. 2017, arXiv:1612.00796, equation 3). The diagonal Fisher information
    F is the one that the base keeps (its training had `fisher`)."""

    type: Literal["ewc"]
    strength: Strength
    """λ. The Fisher information is for each label, and small: 100 to 100,000 is usual; try several."""


class DistanceToStart(Spec):
    """L2-SP: adds strength / 2 × ‖θ − θ₀‖² to the loss, over all weights that the base has (Li et al. 2018,
    arXiv:1802.01483, equation 5)."""

    type: Literal["l2_sp"]
    strength: Strength = 0.01
    """α. The paper tries 0.0001 to 0.1."""


class OldModel(Spec):
    """Learning without forgetting: the base, as it was, is the teacher on the new rows (Li & Hoiem 2016,
    arXiv:1606.09282). For a task, the base has its head with the same labels."""

    type: Literal["old_model"]
    divergence: Divergence = ForwardKl(type="forward_kl")
    """How the distance from the old distributions is measured."""
    temperature: Temperature = 2.0
    """As a teacher's; the paper's is 2."""
    weight: TeacherWeight = 0.5
    """Share of the old model in the loss; the rest is that of the new labels."""


class _Earlier(Spec):
    earlier: AdapterRef
    """The adapter of the tasks before, on the same base: what was trained with it stays active and as it is. The result
    is one adapter with the ranks of both."""


class FrozenAdapter(_Earlier):
    """A new adapter over the frozen one of earlier tasks."""

    type: Literal["frozen_adapter"]


class OrthogonalLora(_Earlier):
    """O-LoRA: as frozen_adapter, and the new one learns to read what the earlier ones did not: adds strength ×
    Σ ‖A₁A₂ᵀ‖² (Wang et al. 2023, arXiv:2310.14152, equations 7 and 8)."""

    type: Literal["orthogonal_lora"]
    strength: Strength = 0.5
    """λ₁. The paper's is 0.5."""


Retention = Annotated[
    ElasticWeights | DistanceToStart | OldModel | FrozenAdapter | OrthogonalLora, Field(discriminator="type")
]


class Fisher(Spec):
    """The diagonal of the Fisher information of the finished model, kept with it for a later job's `retain`.

    It is the mean over labels of squared gradients, row by row (the empirical Fisher), and takes one more copy of the
    model on the first worker. What the base kept is added, so that it holds for all tasks so far (online EWC, Schwarz
    et al. 2018, arXiv:1805.06370, section 3).
    """

    rows: Annotated[int, Field(ge=1)] = 200
    """Training rows that are read, chosen by the seed."""
    earlier_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """What the Fisher information that the base kept counts beside it (γ). 0: only this job's."""


def earlier_adapter_of(spec: "TrainSpec") -> FrozenAdapter | OrthogonalLora | None:
    """What `retain` says of an earlier adapter."""
    return next((one for one in spec.retain if isinstance(one, FrozenAdapter | OrthogonalLora)), None)


def old_model_of(spec: "TrainSpec") -> Teacher | None:
    """The base as a teacher, where `retain` asks for it."""
    asked = next((one for one in spec.retain if isinstance(one, OldModel)), None)
    if asked is None or spec.base is None:
        return None
    return Teacher(model=spec.base, divergence=asked.divergence, temperature=asked.temperature, weight=asked.weight)


def check_retaining(spec: "TrainSpec") -> None:
    """Raises ValueError if a value of `retain`, or `fisher`, does not fit the rest of the spec."""
    _check_fisher(spec)
    if not spec.retain:
        return
    refuse_repeated((one.type for one in spec.retain), "values of retain")
    if spec.base is None:
        raise ValueError("retain keeps what a base has learned: give base")
    if spec.preference is not None or spec.policy is not None:
        raise ValueError(
            "retain is for labels and language; preferences and policies are held to their base themselves"
        )
    if old_model_of(spec) is not None and spec.teacher is not None:
        raise ValueError("retain old_model makes the base the teacher, and teacher names another: leave one out")
    if old_model_of(spec) is not None and spec.keep_layers is not None:
        raise ValueError("retain old_model learns from the base: with keep_layers, name it as `teacher`")
    _check_earlier(spec)
    held = [one.type for one in spec.retain if isinstance(one, ElasticWeights | DistanceToStart)]
    if held and not is_whole_model(spec.adapter):
        raise ValueError(f"retain {held[0]} holds the base's own weights, which adapter {spec.adapter.type} freezes")
    if held and spec.keep_layers is not None:
        raise ValueError(f"retain {held[0]} compares with the base's weights: leave keep_layers out")
    if held and spec.sharding.zero_stage == 3:
        raise ValueError(f"retain {held[0]} needs whole weights, which sharding.zero_stage 3 cuts up: use stage 2")


def _check_earlier(spec: "TrainSpec") -> None:
    over = [one.type for one in spec.retain if isinstance(one, FrozenAdapter | OrthogonalLora)]
    if len(over) > 1:
        raise ValueError("retain orthogonal_lora is a frozen_adapter already: leave one out")
    if over and (not isinstance(spec.adapter, LoraAdapter) or spec.adapter.weight_decomposed):
        raise ValueError(f"retain {over[0]} puts a new LoRA over an earlier one: adapter {{type: lora}}")
    if over and spec.sharding.zero_stage == 3:
        raise ValueError(f"retain {over[0]} reads whole matrices, which sharding.zero_stage 3 cuts up: use stage 2")


def _check_fisher(spec: "TrainSpec") -> None:
    judged = spec.preference is not None or spec.policy is not None
    if spec.fisher is not None and (judged or not is_whole_model(spec.adapter)):
        raise ValueError("fisher is of a whole model that learns labels: leave out adapter, preference and policy")
    if spec.fisher is not None and spec.is_streamed:
        raise ValueError("fisher reads rows in a drawn order, which a streamed corpus is too slow for: leave one out")
