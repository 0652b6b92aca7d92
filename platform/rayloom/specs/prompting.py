"""`prompt`: a language model asked for a task's answers by text alone, without training."""

import string
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from rayloom.specs.base import ModelRef, OutsideFiles, Spec
from rayloom.specs.row_files import files_at_uris
from rayloom.specs.text_generation import Generation
from rayloom.specs.training.labelled_data import LabelledSource
from rayloom.specs.training.rewards import Expression
from rayloom.specs.training.tasks import (
    QuestionAnswering,
    RelationExtraction,
    SequenceToSequence,
    TextClassification,
    TokenClassification,
)

ANSWER = "answer"
"""The template's field where the answer stands."""


class MultipleChoice(Spec):
    """One of the choices that each row brings with it (data of `read: {type: choices}`)."""

    type: Literal["multiple_choice"]
    answers: Literal["texts", "letters"] = "texts"
    """What the model is to say: a choice's own text, or its letter, for templates that show `{choices}`."""


PromptedTask = Annotated[
    TextClassification
    | RelationExtraction
    | TokenClassification
    | QuestionAnswering
    | SequenceToSequence
    | MultipleChoice,
    Field(discriminator="type"),
]
_FIELDS: dict[type[Spec], tuple[str, ...]] = {
    TextClassification: ("text", "pair", "labels"),
    RelationExtraction: ("text", "head", "tail", "labels"),
    TokenClassification: ("text", "labels"),
    QuestionAnswering: ("text", "question"),
    SequenceToSequence: ("text",),
    MultipleChoice: ("question", "choices"),
}


class Likelihood(Spec):
    """The label whose words the model finds likeliest behind the prompt."""

    type: Literal["likelihood"]
    normalisation: Literal["none", "tokens", "characters", "pmi"] = "none"
    """What log-likelihoods are divided by, where label words are not equally long; or pmi: what is subtracted is the
    log-likelihood of the same words where the row's fields are empty (Holtzman et al. 2021, arXiv:2104.08315)."""


class Cloze(Spec):
    """The label whose word a masked encoder finds likeliest at `{answer}` (Schick & Schütze 2021, arXiv:2001.07676).

    Every label word must be one token.
    """

    type: Literal["cloze"]


class Generated(Spec):
    """What the model writes behind the prompt, read by a parser.

    For labels: the one whose word stands first in the answer. For entities: `kind: words`, with `;` between. An answer
    that says nothing of the kind counts as wrong, and the report says how many there were.
    """

    type: Literal["generated"]
    generation: Generation = Generation(max_new_tokens=32)
    """How the model writes: engine, length, sampling. Its system message and template settings need chat_template."""
    stop: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = ("\n",)
    """The answer ends before the first of these texts."""
    pattern: Expression | None = None
    """A regular expression, of which the last match is the answer: its first group, or all of it. Default: the whole
    answer, without the spaces around it."""
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    """CPUs of engine vllm."""
    gpus_per_worker: Literal[0, 1] = 0
    """GPUs of engine vllm; 0 computes on the CPU."""


class Demonstrations(Spec):
    """Solved rows before the one that is asked. A row with the same text is never among them."""

    num_rows: Annotated[int, Field(ge=1)]
    """How many there are before each row."""
    choose: Literal["random", "by_label", "nearest"] = "by_label"
    """random: the same for all rows. by_label: the same, and as many of each label as of every other. nearest: for each
    row those that resemble it most, the nearest last (Liu et al. 2022, arXiv:2101.06804)."""
    nearest_by: Literal["bm25", "embedding"] = "bm25"
    """bm25: shared words, by how rare they are (Robertson & Zaragoza 2009). embedding: cosine of mean hidden states."""
    embedder: ModelRef | None = None
    """The encoder or language model of `nearest_by: embedding`. Default: the model that is asked."""
    sources: tuple[LabelledSource, ...] = ()
    """Data sets whose rows are chosen from. Default, in an evaluation: the rows of the check's data that are not
    tested."""

    @model_validator(mode="after")
    def _embedder_is_used(self) -> Self:
        is_used = self.choose == "nearest" and self.nearest_by == "embedding"
        if self.embedder is not None and not is_used:
            raise ValueError("embedder is used with choose: nearest and nearest_by: embedding only")
        return self


def _check_template(text: str) -> str:
    try:
        pieces = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"cannot be read: {error}; a brace in the text is written twice") from None
    for _, name, form, conversion in pieces:
        if name is not None and (not name.isidentifier() or form or conversion):
            raise ValueError(f"has a field {{{name}}}, which is no name; a brace in the text is written twice")
    if [name for _, name, _, _ in pieces].count(ANSWER) != 1:
        raise ValueError("needs the field {answer} once, where the answer stands")
    return text


Words = Annotated[str, StringConstraints(min_length=1)]
Template = Annotated[str, AfterValidator(_check_template)]


class Prompt(Spec):
    """How a model is asked for a task's answers by text alone (Brown et al. 2020, arXiv:2005.14165)."""

    task: PromptedTask
    """What is answered, as in training."""
    template: Template
    """A row as text, such as `Review: {text}\\nIs it positive? {answer}`: `{text}`, `{pair}` of pairs, `{head}` and
    `{tail}` of relations, `{question}`, `{choices}` with a letter before each, `{labels}` by their words, and
    `{answer}`."""
    instruction: str = ""
    """Text before everything, separated like demonstrations."""
    separator: str = "\n\n"
    """Between the instruction, the demonstrations and the row."""
    words: dict[str, Words | Annotated[tuple[Words, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """What the model says for a label; of several words, the mean of their probabilities counts, and demonstrations
    have the first. Default: the label itself."""
    chat_template: bool = False
    """Ask by the model's chat template: instruction as system message, rows as the user's, answers as the assistant's.
    A template that ends in `{answer}` then asks by what stands before it."""
    scoring: Annotated[Likelihood | Cloze | Generated, Field(discriminator="type")] = Likelihood(type="likelihood")
    """How an answer is got out of the model."""
    demonstrations: Demonstrations | None = None
    """Solved rows before the one that is asked. Default: none."""
    calibration: tuple[str, ...] = ()
    """Contextual calibration (Zhao et al. 2021, arXiv:2102.09690): probabilities are divided by those where a row's
    fields say nothing, which are taken from the mean over these texts; `["N/A", "[MASK]", ""]` is usual. Default:
    none."""
    max_field_characters: Annotated[int, Field(ge=1)] | None = None
    """Longer fields are cut, in demonstrations too. Default: all is shown, and what does not fit into the model's
    context is an error."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a task that has some: of tokens, the kinds of entity."""
        if isinstance(self.task, TokenClassification):
            return self.task.entities
        return getattr(self.task, "labels", ())

    def words_of(self, label: str) -> tuple[str, ...]:
        words = self.words.get(label, label)
        return (words,) if isinstance(words, str) else words

    @property
    def has_classes(self) -> bool:
        """Whether each row has one label of a fixed list."""
        is_single = isinstance(self.task, TextClassification) and not self.task.multiple
        return is_single or isinstance(self.task, RelationExtraction)

    def files_of(self, field: str) -> Iterator[OutsideFiles]:
        """Files of demonstrations outside artifacts. `field`: dotted path of this prompt."""
        if self.demonstrations is not None:
            yield from files_at_uris(f"{field}.demonstrations.sources", self.demonstrations.sources)

    @model_validator(mode="after")
    def _template_fits_the_task(self) -> Self:
        known = (*_FIELDS[type(self.task)], ANSWER)
        names = [name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None]
        strange = [name for name in names if name not in known]
        if strange:
            listed = ", ".join(f"{{{name}}}" for name in known)
            raise ValueError(f"template has a field {{{strange[0]}}}; for {self.task.type} there are {listed}")
        if set(names) <= {ANSWER, "labels"}:
            raise ValueError("template shows nothing of the row")
        if not isinstance(self.scoring, Cloze) and not self.template.endswith(f"{{{ANSWER}}}"):
            raise ValueError(f"template must end in {{{ANSWER}}}: {self.scoring.type} reads what follows the prompt")
        return self

    @model_validator(mode="after")
    def _words_fit_the_labels(self) -> Self:
        strange = sorted(set(self.words) - set(self.labels))
        if strange:
            known = ", ".join(self.labels) or "none"
            raise ValueError(f"words names {', '.join(strange)}, which is no label of the task; labels are {known}")
        seen: dict[str, str] = {}
        for label in self.labels:
            for word in self.words_of(label):
                if not word.strip():
                    raise ValueError(f"words has nothing but spaces for {label}")
                if seen.setdefault(word.strip().casefold(), label) != label:
                    raise ValueError(f"words has {word!r} for {seen[word.strip().casefold()]} and for {label}")
        return self

    @model_validator(mode="after")
    def _scoring_fits_the_task(self) -> Self:
        scoring = self.scoring
        is_choice = isinstance(self.task, MultipleChoice)
        is_scored = self.has_classes or (is_choice and isinstance(scoring, Likelihood))
        if not isinstance(scoring, Generated) and not is_scored:
            several = ", multiple" if isinstance(self.task, TextClassification) else ""
            raise ValueError(f"scoring {scoring.type} gives no answers of {self.task.type}{several}: use generated")
        if self.calibration and (is_choice or isinstance(scoring, Generated)):
            raise ValueError("calibration is for the likelihoods of labels that all rows share")
        if self.calibration and isinstance(scoring, Likelihood) and scoring.normalisation == "pmi":
            raise ValueError("normalisation pmi corrects the same as calibration: leave one of them out")
        if self.chat_template and isinstance(scoring, Cloze):
            raise ValueError("chat_template is for decoders: a cloze is asked of an encoder")
        is_for_chats = isinstance(scoring, Generated) and bool(
            scoring.generation.system is not None or scoring.generation.chat_template_kwargs
        )
        if is_for_chats and not self.chat_template:
            raise ValueError("generation.system and generation.chat_template_kwargs need chat_template: true")
        if is_choice and self.task.answers == "letters" and "{choices}" not in self.template:  # type: ignore[union-attr]
            raise ValueError("answers: letters needs {choices} in the template")
        return self


def _for_rows(prompt: Prompt) -> Prompt:
    shown, scoring = prompt.demonstrations, prompt.scoring
    if shown is not None and not shown.sources:
        raise ValueError("demonstrations needs sources: rows with labels to choose from")
    if shown is not None and shown.choose == "nearest" and shown.nearest_by == "embedding":
        raise ValueError("nearest_by: embedding is offered in evaluations only: use bm25")
    if isinstance(scoring, Generated) and scoring.generation.engine != "transformers":
        raise ValueError("scoring generated needs generation.engine: transformers here")
    if isinstance(prompt.task, MultipleChoice):
        raise ValueError("task multiple_choice is offered in evaluations only")
    return prompt


def _for_labels(prompt: Prompt) -> Prompt:
    if not isinstance(prompt.task, TextClassification | RelationExtraction):
        raise ValueError("prompt is offered here for text_classification and relation_extraction")
    return prompt


RowPrompt = Annotated[Prompt, AfterValidator(_for_rows)]
"""A prompt for rows whose answers are not known."""
LabelPrompt = Annotated[RowPrompt, AfterValidator(_for_labels)]
"""The same for labels alone."""
