"""`task` of a training job: classification, tagging, question answering or generation of a text from a text."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from rayloom.specs.base import Share, Spec

if TYPE_CHECKING:
    from rayloom.specs.train import TrainSpec

Label = Annotated[str, StringConstraints(min_length=1, strip_whitespace=False)]
ClassWeights = Literal["balanced"] | dict[str, Annotated[float, Field(gt=0)]]
"""Weights of the classes in the loss. balanced: rows / (classes × rows of the class), counted in the training rows."""
Smoothing = Annotated[float, Field(ge=0, lt=1)]
"""Label smoothing: share of the target probability spread over all labels (Szegedy et al. 2016, arXiv:1512.00567,
section 7)."""
TASK_FILE = "task.json"
"""File in the folder of a model or adapter with the task for which it was trained and the length of its rows."""
PeftTask = Literal["SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM"]


class _Classes(Spec):
    """The fields of every task with a fixed list of labels."""

    labels: Annotated[tuple[Label, ...], Field(min_length=2)]
    """In the order of the model's outputs. A label in the data that is not listed is an error."""
    class_weights: ClassWeights | None = None
    """How much each label counts in the loss. Default: all labels alike."""
    label_smoothing: Smoothing = 0.0
    """In training only; held-out losses are plain."""

    @model_validator(mode="after")
    def _labels_are_distinct(self) -> Self:
        twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if twice:
            raise ValueError(f"labels has {', '.join(twice)} more than once")
        if isinstance(self.class_weights, dict):
            _check_weights(self.class_weights, self.labels)
        return self


class TextClassification(_Classes):
    """One label for a text or for a pair of texts; with `multiple`, any number of them."""

    type: Literal["text_classification"]
    multiple: bool = False
    """A text may have several labels, or none; each is decided by itself."""
    long_texts: Literal["beginning", "both_ends"] = "beginning"
    """What is read of a text that is longer than sequence_length_tokens; of pairs always their beginnings. both_ends:
    a quarter of the row from the beginning, the rest from the end (Sun et al. 2019, arXiv:1905.05583, section 5.3)."""
    peft_task: ClassVar[PeftTask] = "SEQ_CLS"

    @model_validator(mode="after")
    def _smoothing_needs_one_label(self) -> Self:
        if self.multiple and self.label_smoothing:
            raise ValueError("label_smoothing spreads one label's probability; with multiple there is no such thing")
        return self


class RelationExtraction(_Classes):
    """One label for the relation of two marked entities in a text.

    The first is marked by @ on both sides, the second by #, which every vocabulary has (Zhou & Chen 2022,
    arXiv:2102.01373, "entity marker, punctuation").
    """

    type: Literal["relation_extraction"]
    peft_task: ClassVar[PeftTask] = "SEQ_CLS"


class TokenClassification(Spec):
    """Entities in a text, by BIO tags of tokens: an entity begins (B), continues (I), or neither (O).

    Texts longer than the sequence length are read in overlapping windows; nothing is truncated.
    """

    type: Literal["token_classification"]
    entities: Annotated[tuple[Label, ...], Field(min_length=1)]
    """The kinds of entity, such as person and place."""
    overlap_tokens: Annotated[int, Field(ge=0)] = 32
    """Tokens that a window shares with the one before it."""
    class_weights: ClassWeights | None = None
    """By tag: O, B-person, I-person, …"""
    label_smoothing: Smoothing = 0.0
    """Part of the probability that is spread over all labels in training."""
    peft_task: ClassVar[PeftTask] = "TOKEN_CLS"

    @property
    def labels(self) -> tuple[str, ...]:
        """The tags in the order of the model's outputs."""
        return ("O", *(f"{prefix}-{entity}" for entity in self.entities for prefix in "BI"))

    @model_validator(mode="after")
    def _entities_are_distinct(self) -> Self:
        if len(set(self.entities)) < len(self.entities):
            raise ValueError("entities has one more than once")
        if isinstance(self.class_weights, dict):
            _check_weights(self.class_weights, self.labels)
        return self


class QuestionAnswering(Spec):
    """The span of a text that answers a question, or no answer (Devlin et al. 2019, sections 4.2 and 4.3)."""

    type: Literal["question_answering"]
    overlap_tokens: Annotated[int, Field(ge=0)] = 64
    """Tokens of the text that a window shares with the one before it."""
    max_answer_tokens: Annotated[int, Field(ge=1)] = 30
    """Longest answer, in tokens."""
    min_answer_share: Share = 0.0
    """An answer less probable than this is given as none."""
    label_smoothing: Smoothing = 0.0
    """Part of the probability that is spread over all positions in training."""
    peft_task: ClassVar[PeftTask] = "QUESTION_ANS"


class SequenceToSequence(Spec):
    """A text generated from a text by an encoder-decoder, such as a translation or summary (Raffel et al. 2020, T5).

    For decoders, use conversations of type prompt_completion.
    """

    type: Literal["sequence_to_sequence"]
    max_target_tokens: Annotated[int, Field(ge=2)] = 128
    """Longest text that is written or learned."""
    peft_task: ClassVar[PeftTask] = "SEQ_2_SEQ_LM"


class RewardScoring(Spec):
    """A number for the last answer of a conversation: a reward model, learned from pairs of answers.

    Loss: −log σ(reward of the better answer − reward of the worse one − margin) (Bradley & Terry 1952; Ouyang et al.
    2022, arXiv:2203.02155, equation 1). A row's `margin` says by how much the better one should lead (Touvron et al.
    2023, arXiv:2307.09288, equation 2); without that column it is 0.
    """

    type: Literal["reward"]
    step_separator: Annotated[str, StringConstraints(min_length=1, strip_whitespace=False)] | None = None
    """Learn a process reward: the probability that a step of an answer is right, for each of its steps, which end with
    this text (Lightman et al. 2023, arXiv:2305.20050). Rows then have `prompt`, `completions` (the steps) and `labels`
    (true or false for each). Default: one number for the whole answer, from pairs."""
    labels: ClassVar[tuple[str, ...]] = ("reward",)
    peft_task: ClassVar[PeftTask] = "SEQ_CLS"


Task = Annotated[
    TextClassification
    | RelationExtraction
    | TokenClassification
    | QuestionAnswering
    | SequenceToSequence
    | RewardScoring,
    Field(discriminator="type"),
]


def step_separator_of(task: Task | None) -> str | None:
    """What ends the steps that a process reward judges; None for any other task."""
    return task.step_separator if isinstance(task, RewardScoring) else None


def _check_weights(weights: dict[str, float], labels: tuple[str, ...]) -> None:
    unknown = sorted(set(weights) - set(labels))
    if unknown:
        raise ValueError(f"class_weights names {', '.join(unknown)}, which is no label; labels are {', '.join(labels)}")


def check_task(job: "TrainSpec") -> None:
    """Raises ValueError if a task does not fit the rest of the spec."""
    if (job.task is None or job.learns_reward) == (job.data.type == "labelled"):
        raise ValueError("a task other than reward needs data of type labelled, and such data needs a task")
    if job.learns_reward and getattr(job.data, "chat_template_kwargs", None):
        raise ValueError("data.chat_template_kwargs is not known where a reward model scores answers: leave it out")
    if job.task is not None and job.base is None:
        raise ValueError("a task needs a base: fresh weights know no language yet")
    if isinstance(job.task, SequenceToSequence) and not job.packs_rows:
        raise ValueError(f"adapter {job.adapter.type} is not offered for an encoder-decoder: use lora")
    if job.task is not None and job.replay is not None:
        raise ValueError("replay goes on with general text, which a task's head cannot: leave one of them out")
