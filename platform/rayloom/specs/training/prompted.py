"""`task: {type: prompted}`: a language model learns the label words of a prompt, from few rows."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from rayloom.specs.base import Spec
from rayloom.specs.prompting import Generated, Likelihood, Prompt
from rayloom.specs.training.tasks import (
    QuestionAnswering,
    RelationExtraction,
    RewardScoring,
    SequenceToSequence,
    TextClassification,
    TokenClassification,
)

if TYPE_CHECKING:
    from rayloom.specs.train import TrainSpec


PROMPT_FILE, SHOWN_FILE = "prompt.json", "demonstrations.jsonl"
"""Files in the folder of a model or adapter that was trained on a prompt: the prompt with the length of its rows, and
the rows that its demonstrations are drawn from."""


def _for_training(prompt: Prompt) -> Prompt:
    shown, scoring = prompt.demonstrations, prompt.scoring
    if not prompt.has_classes or isinstance(scoring, Generated):
        raise ValueError(
            "learns one label of a list (text_classification without multiple, relation_extraction) by likelihood or "
            "cloze; a model learns to write answers from conversations"
        )
    if prompt.calibration or (isinstance(scoring, Likelihood) and scoring.normalisation == "pmi"):
        raise ValueError("calibration and pmi correct a model that has not learned the labels: leave them out")
    if shown is not None and shown.sources:
        raise ValueError("demonstrations come from the rows that are trained on: leave demonstrations.sources out")
    if shown is not None and shown.nearest_by == "embedding":
        raise ValueError("nearest_by: embedding is offered in evaluations only: use bm25")
    return prompt


class PromptTraining(Spec):
    """One label for a text or pair, learned through a prompt: the words of the right label become likelier than the
    others' (pattern-exploiting training, Schick & Schütze 2021, arXiv:2001.07676, equation 1).

    No head is added, so that all that the model knows of the words counts: for 16 to some hundred rows. Decoders are
    trained by `scoring: {type: likelihood}`, encoders by `{type: cloze}`. With `demonstrations`, each time a row is
    read, others of the rows are drawn to stand before it (Gao et al. 2021, arXiv:2012.15723, section 6). The result
    keeps prompt and demonstrations: it predicts, is served and is checked (`type: task`) as it was trained.
    """

    type: Literal["prompted"]
    prompt: Annotated[Prompt, AfterValidator(_for_training)]
    """How the model is asked, as in a check of type prompted. `prompt.task` has the labels, and may weigh or smooth
    them."""


def classes_of(prompt: Prompt) -> TextClassification | RelationExtraction:
    """The task of a prompt that is trained on: the labels, and how they are weighed."""
    if not isinstance(prompt.task, TextClassification | RelationExtraction):
        raise TypeError(f"{prompt.task.type} has no classes")
    return prompt.task


TrainTask = Annotated[
    TextClassification
    | RelationExtraction
    | TokenClassification
    | QuestionAnswering
    | SequenceToSequence
    | RewardScoring
    | PromptTraining,
    Field(discriminator="type"),
]


def check_prompted(job: "TrainSpec") -> None:
    """Raises ValueError if training on a prompt does not fit the rest of the spec."""
    if not isinstance(job.task, PromptTraining) or job.data.type != "labelled":
        return
    if job.objective is not None:
        raise ValueError("task prompted has its objective from prompt.scoring: leave objective out")
    if job.data.length_policy == "truncate":
        raise ValueError(
            "length_policy: truncate would cut the prompt, not the text: cut fields by prompt.max_field_characters, "
            "which predictions do too"
        )
    if job.teacher_in_use is not None:
        raise ValueError("a teacher (or retain old_model) is not offered for task prompted: leave it out")
    if job.sharding.zero_stage == 3:
        raise ValueError("task prompted is not proven with sharding.zero_stage 3: use stage 2")
