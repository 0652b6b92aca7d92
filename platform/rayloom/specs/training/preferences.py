"""`preference` of a training job: learning from pairs of a better and a worse answer, or from good and bad answers."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from rayloom.specs.base import Share, Spec
from rayloom.specs.row_files import SourceOfRows
from rayloom.specs.training.training_data import IgnoredKeys, RowProblem, TemplateKwargs

if TYPE_CHECKING:
    from rayloom.specs.train import TrainSpec

Positive = Annotated[float, Field(gt=0)]


class Dpo(Spec):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290, equation 7).

    Loss: −log σ(β · (log p/p_ref of the chosen answer − log p/p_ref of the rejected one)).
    """

    type: Literal["dpo"]
    beta: Positive = 0.1
    """β: how strongly the model is held to the model it started from; more allows less change."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Assumed share of pairs with chosen and rejected swapped by mistake (Mitchell 2023, conservative DPO)."""
    needs_reference: ClassVar[bool] = True


class Orpo(Spec):
    """Odds ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691, equations 6 and 7).

    Loss: −mean log p of the chosen answer's tokens + λ · −log σ(log odds of chosen − of rejected); no reference model.
    """

    type: Literal["orpo"]
    weight: Positive = 0.1
    """λ: how much the preference counts beside the loss of the chosen answer."""
    needs_reference: ClassVar[bool] = False


class SimPo(Spec):
    """Simple preference optimisation (Meng et al. 2024, arXiv:2405.14734, equation 6).

    Loss: −log σ(β · (mean log p of the chosen answer's tokens − of the rejected one's) − γ); no reference model.
    """

    type: Literal["simpo"]
    beta: Positive = 2.0
    """Scale of the difference between the two answers; more separates them more sharply."""
    margin: Annotated[float, Field(ge=0)] = 1.0
    """γ: the difference between the two answers that is aimed for."""
    needs_reference: ClassVar[bool] = False


class Kto(Spec):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306, equation 8): rows with one answer each,
    good or bad.

    Its reference point is estimated in each micro-batch from answers to other prompts, so micro-batches need several
    rows.
    """

    type: Literal["kto"]
    beta: Positive = 0.1
    """β: how strongly the model is held to the model it started from; more allows less change."""
    good_weight: Positive = 1.0
    """Weight of rows with a good answer."""
    bad_weight: Positive = 1.0
    """Raise the weight of the rarer kind: weight × rows should be about equal (section 4.2)."""
    needs_reference: ClassVar[bool] = True


Preference = Annotated[Dpo | Orpo | SimPo | Kto, Field(discriminator="type")]


class PreferenceSource(SourceOfRows):
    """Rows of a data set."""

    format: Literal["prompt_chosen_rejected", "sharegpt", "messages_label"] | None = None
    """prompt_chosen_rejected: texts or lists of messages; without `prompt`, what both begin with is the prompt.
    sharegpt: `conversations` with `chosen` and `rejected`. messages_label: `messages` that end with an answer (or
    `prompt` and `completion`), and `label` true or false, for kto. Default: the form whose columns a row has."""
    limit_rows: Annotated[int, Field(ge=1)] | None = None
    """Most rows taken, chosen by the seed. Default: all."""
    ignore_keys: IgnoredKeys = ()
    """Keys of rows and messages to read as if they were not there; jobs/reference/rows.md says what each key means."""


class PreferenceData(Spec):
    """Conversations with judged last answers. Both answers of a pair are in one row."""

    type: Literal["preferences"]
    sources: Annotated[tuple[PreferenceSource, ...], Field(min_length=1)]
    """Data sets whose rows are read one after the other."""
    heldout_rows: Annotated[int, Field(ge=1)] = 50
    """Rows kept for evaluation and never trained on; a seed always gives the same rows."""
    length_policy: Literal["error", "drop"] = "error"
    """What to do with a pair longer than sequence_length_tokens. Answers are never cut, because the judgement is about
    whole answers."""
    max_length_policy_share: Share = 0.01
    """Part of the rows that `drop` may leave out; the job fails if there are more."""
    leave_out: tuple[RowProblem, ...] = ()
    """Rows with these problems are left out and counted; any other problem stops the job, every such row named."""
    chat_template_kwargs: TemplateKwargs = Field(default_factory=dict)
    """Settings of the chat template, such as `enable_thinking: false`; a row's own go before them."""


def check_preference(job: "TrainSpec") -> None:
    """Raises ValueError if a preference does not fit the rest of the spec."""
    if (job.preference is None and not job.learns_reward) == isinstance(job.data, PreferenceData):
        raise ValueError("a preference or task reward needs data of type preferences, and such data needs one of them")
    if job.preference is not None and job.learns_reward:
        raise ValueError("give either preference or task reward")
    if job.preference is None:
        return
    if job.base is None or job.replay is not None or job.objective_in_use.type != "causal":
        raise ValueError("a preference needs a base that answers; leave architecture, objective and replay out")
    if not job.packs_rows:
        raise ValueError(f"adapter {job.adapter.type} needs one text in each row, and a pair has two: use lora")
    if isinstance(job.preference, Kto) and job.micro_batch_sequences < 2:
        raise ValueError("preference kto compares the rows of a micro-batch: micro_batch_sequences of 2 or more")
    return
