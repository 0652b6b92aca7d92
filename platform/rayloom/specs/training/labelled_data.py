"""Data for tasks: texts with labels, entities, relations or answers, in the formats usual for such data sets."""

from typing import Annotated, Literal

from pydantic import Field

from rayloom.specs.base import Share, Spec
from rayloom.specs.row_files import SourceOfRows
from rayloom.specs.training.training_data import IgnoredKeys

LabelledProblem = Literal[
    "unreadable",
    "missing_column",
    "not_text",
    "empty_text",
    "no_label",
    "unknown_label",
    "several_labels",
    "bad_tag",
    "bad_span",
    "overlapping_spans",
    "answer_not_in_context",
    "ambiguous_answer",
    "unsupported_key",
    "bad_mark",
    "not_trained",
    "no_tokens",
    "too_long",
]
"""The reasons for which a row of labelled data is bad."""


class TableRows(Spec):
    """Rows of CSV, TSV, JSON, JSON lines, Parquet or Arrow with columns for text and label."""

    type: Literal["table"]
    text: str = "text"
    """Column of the text."""
    pair: str | None = None
    """Column of the second text, if the label is about a pair of texts."""
    label: str = "label"
    """Column of the label, or of a list of labels if a text can have several."""
    names: dict[str, str] = Field(default_factory=dict)
    """Label for each value of the column, such as `"0": negative`. A value that is not listed is itself the label."""
    only: dict[str, str] = Field(default_factory=dict)
    """Column and value, such as `split: train`: only rows with this value are read; the others are counted."""


class LineRows(Spec):
    """Every line that is not blank is a text, all with one label."""

    type: Literal["lines"]
    label: str
    """The label of every line of the files."""


class DocumentRows(Spec):
    """Every file is a text, all with one label."""

    type: Literal["documents"]
    label: str
    """The label of every document of the files."""


class ConllRows(Spec):
    """A word and its BIO tag on each line, the word first and the tag last; a blank line ends a text."""

    type: Literal["conll"]
    names: dict[str, str] = Field(default_factory=dict)
    """The task's entity for each one in the files, such as `PER: person`. One that is not listed keeps its name."""


class WordRows(Spec):
    """Rows with a list of words and a list of their BIO tags, as data sets of the hub have them."""

    type: Literal["tokens"]
    words: str = "tokens"
    """Column of the words, which are joined by spaces."""
    tags: str = "ner_tags"
    """Column of the tags: texts, or numbers whose names the data set of the hub says."""
    names: dict[str, str] = Field(default_factory=dict)
    """What an entity of the data is called in the task. Others are entities as they stand."""


class TaggedWords(Spec):
    """Lines of `word/tag`; adjacent words with the same tag in `entities` are one entity. Words are joined without
    spaces."""

    type: Literal["tagged_words"]
    entities: Annotated[dict[str, str], Field(min_length=1)]
    """The entity for each tag, such as `nr: person`. Words with any other tag are no entity."""


class SpanRows(Spec):
    """Rows with a text and a list of `{start, end, label}`: character offsets, `end` exclusive."""

    type: Literal["spans"]
    text: str = "text"
    """Column of the text."""
    entities: str = "entities"
    """Column of the list of entities."""


class RelationRows(Spec):
    """Rows with a text, two entities `{start, end}` by character offsets, and the label of their relation."""

    type: Literal["relations"]
    text: str = "text"
    """Column of the text."""
    head: str = "head"
    """Column of the relation's first entity."""
    tail: str = "tail"
    """Column of the relation's second entity."""
    label: str = "label"
    """Column of the relation's name."""


class QuestionRows(Spec):
    """Rows with a context, a question, and answers `{text, answer_start}` as in SQuAD; an empty list if there is none.

    Answers are a list of such objects, or one object with a list under each name. An answer without an offset must
    occur in the context exactly once."""

    type: Literal["questions"]
    context: str = "context"
    """Column of the text that the question is about."""
    question: str = "question"
    """Column of the question."""
    answers: str = "answers"
    """Column of the answers."""


class PairRows(Spec):
    """Rows of CSV, TSV, JSON, JSON lines, Parquet or Arrow with a text and the text to be generated from it."""

    type: Literal["pairs"]
    source: str = "source"
    """Column of the text that is read."""
    target: str = "target"
    """Column of the text that is to be written."""


class ChoiceRows(Spec):
    """Rows with a question, a list of choices and the right one, for a model that is asked by a prompt."""

    type: Literal["choices"]
    question: str = "question"
    """Column of the question."""
    choices: str = "choices"
    """Column of the list of choices. Of an object with lists `text` and `label`, as ARC has it, the texts."""
    answer: str = "answer"
    """Column of the right choice: its index from 0, its letter or label, or its text."""


Reading = Annotated[
    TableRows
    | LineRows
    | DocumentRows
    | ConllRows
    | WordRows
    | TaggedWords
    | SpanRows
    | RelationRows
    | QuestionRows
    | PairRows
    | ChoiceRows,
    Field(discriminator="type"),
]


class LabelledSource(SourceOfRows):
    """Rows of a data set."""

    read: Reading
    """How texts and labels are written in the files."""
    limit_rows: Annotated[int, Field(ge=1)] | None = None
    """Most rows taken, chosen by the seed. Default: all."""
    ignore_keys: IgnoredKeys = ()
    """Columns to read as if they were not there; jobs/reference/rows.md says what each key means."""


class LabelledData(Spec):
    """Texts with their labels, for the job's task."""

    type: Literal["labelled"]
    sources: Annotated[tuple[LabelledSource, ...], Field(min_length=1)]
    """Data sets whose rows are read one after the other."""
    heldout_rows: Annotated[int, Field(ge=1)] = 100
    """Rows kept for evaluation. Neither they nor rows with the same text are trained on; a seed always gives the same
    rows."""
    train_rows: Annotated[int, Field(ge=1)] | None = None
    """Most rows trained on, chosen by the seed from the others. Default: all."""
    length_policy: Literal["error", "drop", "truncate"] = "error"
    """What to do with a text longer than sequence_length_tokens, unless the task reads long texts in windows."""
    max_length_policy_share: Share = 0.01
    """Part of the rows that `drop` or `truncate` may change; the job fails if there are more."""
    leave_out: tuple[LabelledProblem, ...] = ()
    """Rows with these problems are left out and counted; any other problem stops the job, every such row named."""
