"""`task` of a generating job: what is written."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from rayloom.specs.base import ModelRef, Share, Spec
from rayloom.specs.row_files import SourceOfRows
from rayloom.specs.training.rewards import Rewards

Text = Annotated[str, StringConstraints(min_length=1)]
Several = Annotated[int, Field(ge=2, le=256)]


class GivenRows(SourceOfRows):
    """Rows that something is written for."""

    text: str = "prompt"
    """Column of the prompt or text. Where a row has no such column but is a conversation in a known form (alpaca,
    messages, …), its first user message."""
    keep: tuple[str, ...] = ()
    """Columns to take over into the result."""
    limit_rows: Annotated[int, Field(ge=1)] | None = None
    """At most so many rows, spread evenly over all, since data sets are often sorted by label or by source. All are
    read once more to count them; to read less, name fewer `files`."""


class _OfRows(Spec):
    """The fields of every task with given rows."""

    data: GivenRows
    """What something is written for."""


class AnswersTask(_OfRows):
    """A teacher's answers to given prompts, as conversations."""

    type: Literal["answers"]
    num_samples: Annotated[int, Field(ge=1, le=256)] = 1
    """Answers to each prompt, each a row."""


class ConsistencyTask(_OfRows):
    """Self-consistency (Wang et al. 2023, arXiv:2203.11171): of several answers the one on which most agree."""

    type: Literal["consistency"]
    num_samples: Several = 8
    """Answers to each prompt."""
    agree_by: Literal["exact", "numeric", "label", "embedding"] = "exact"
    """exact: the same text, but for case and white space. numeric: the same last number. label: the same of `labels`.
    embedding: cosine similarity under `embedder`."""
    after: Text | None = None
    """Only what follows the last of these marks is compared, such as `####`. Default: the whole answer."""
    labels: tuple[Text, ...] = ()
    """With agree_by label: the labels of which an answer names one."""
    embedder: ModelRef | None = None
    """With agree_by embedding: an encoder, whose mean over the tokens is the embedding."""
    similarity_threshold: Annotated[float, Field(gt=0, le=1)] = 0.9
    """With agree_by embedding: cosine similarity from which two answers agree."""
    min_agreement_share: Share = 0.5
    """Rows on which a smaller share of the answers agree are dropped, as `too_little_agreement`."""

    @model_validator(mode="after")
    def _has_what_it_compares(self) -> Self:
        if (self.agree_by == "label") != bool(self.labels):
            raise ValueError("labels go with agree_by: label")
        if (self.agree_by == "embedding") != (self.embedder is not None):
            raise ValueError("embedder goes with agree_by: embedding")
        return self


class LabelsTask(_OfRows):
    """Labels for unlabelled texts: the label that most samples name, with their share as its confidence."""

    type: Literal["labels"]
    labels: Annotated[tuple[Text, ...], Field(min_length=2)]
    """The labels to choose from."""
    question: Text = "Which label fits this text?"
    """What is asked about each text."""
    num_samples: Annotated[int, Field(ge=1, le=256)] = 5
    """Samples for each text."""
    min_confidence: Share = 0.8
    """Texts whose label fewer of the samples name are dropped, as `unsure_label`."""
    max_label_share: Annotated[float, Field(gt=0, le=1)] = 0.99
    """The job stops if one label has a larger part of the labels, from the hundredth on: small models often give every
    text the same one."""


class BestOfTask(_OfRows):
    """Of several answers to each prompt the one that gets the most points, as a conversation."""

    type: Literal["best_of"]
    num_samples: Several = 4
    """Answers to each prompt."""
    rewards: Rewards | None = None
    """What gives the points, as in training with rewards. Default: the judge, from 1 to 10 (prompt `points`)."""


class PairsTask(_OfRows):
    """Preference pairs: `prompt`, `chosen` and `rejected`. A judge compares two answers to a prompt in both orders, and
    must say the same twice (Zheng et al. 2023, arXiv:2306.05685, section 3.4); or rewards give points to several."""

    type: Literal["pairs"]
    rewards: Rewards | None = None
    """What gives the points, as in training with rewards. The answers with the most and the fewest become the pair;
    where all have the same, the row is dropped, as `equal_points`. Default: the judge compares."""
    num_samples: Several = 2
    """Answers to each prompt. More than two need rewards."""

    @model_validator(mode="after")
    def _judge_compares_two(self) -> Self:
        if self.num_samples != 2 and self.rewards is None:
            raise ValueError("a judge compares two answers: leave num_samples out, or give rewards")
        return self


class EvolveTask(_OfRows):
    """Evol-Instruct (Xu et al. 2023, arXiv:2304.12244): given instructions rewritten into harder or rarer ones, and
    answered."""

    type: Literal["evolve"]
    num_rounds: Annotated[int, Field(ge=1, le=10)] = 1
    """Rewritings one after the other. Each round's instructions are kept; one that fails is rewritten again from its
    last good form."""
    operations: Annotated[
        tuple[Literal["constrain", "deepen", "concretise", "reason", "broaden"], ...], Field(min_length=1)
    ] = ("constrain", "deepen", "concretise", "reason", "broaden")
    """Of which one is drawn for each rewriting; prompts `evolve_NAME`."""


class ParaphraseTask(_OfRows):
    """Texts in other words, with the same kept columns (such as their label): augmentation for `clean` and `train`."""

    type: Literal["paraphrase"]
    num_samples: Annotated[int, Field(ge=1, le=16)] = 1
    """Paraphrases of each text."""
    through: Text | None = None
    """Back-translation (Sennrich et al. 2016): the text is translated into this language and back, such as German.
    Default: it is paraphrased directly."""


class Quotas(Spec):
    """Limits on kinds of tasks, as shares of what is kept, counted from the fiftieth row on."""

    max_classification_share: Share = 0.5
    """Further classification tasks are dropped, as `classification_quota`."""
    max_verb_share: Share = 0.1
    """Further instructions that begin with the same verb are dropped, as `verb_quota`."""


class SelfInstructTask(Spec):
    """Self-Instruct (Wang et al. 2022, arXiv:2212.10560): from a few seed tasks the model writes new instructions, says
    which are classification, and writes their inputs and outputs; for classification the output comes first."""

    type: Literal["self_instruct"]
    seeds: SourceOfRows
    """Tasks written by people: columns instruction, input (may be empty) and output; or conversations. A column
    is_classification, if there is one, says which are classification."""
    num_rows: Annotated[int, Field(ge=1)]
    """Rows to keep."""
    num_seed_examples: Annotated[int, Field(ge=1)] = 6
    """Seeds in each prompt for new instructions."""
    num_generated_examples: Annotated[int, Field(ge=0)] = 2
    """Kept instructions in each such prompt, once there are so many."""
    quotas: Quotas = Quotas()
    """Balance between kinds of tasks."""


GenerateTask = Annotated[
    AnswersTask
    | ConsistencyTask
    | LabelsTask
    | BestOfTask
    | PairsTask
    | EvolveTask
    | ParaphraseTask
    | SelfInstructTask,
    Field(discriminator="type"),
]
