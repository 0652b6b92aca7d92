"""Labelled data sets made into rows of a task: read, checked, split, encoded, every row accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rayloom.errors import InputError
from rayloom.reading.files import RowFile
from rayloom.specs.training.labelled_data import LabelledData
from rayloom.specs.training.tasks import QuestionAnswering, SequenceToSequence, Task, TokenClassification
from rayloom.text.labelled.encoded_rows import write_task_rows
from rayloom.text.labelled.encoding import TaskEncoder
from rayloom.text.labelled.examples import Example, ExampleError, write_examples
from rayloom.text.labelled.labelled_rows import labelled_rows
from rayloom.text.row_problems import RowProblems
from rayloom.text.tokenizer_files import tokenizer_digest

EXAMPLES_NAME = "examples.jsonl"
NO_ENTITY, NO_ANSWER, NO_LABEL = "(no entity)", "(no answer)", "(no label)"


class RowEncoder(Protocol):
    """Says which examples a task can use, and how long they are."""

    @property
    def task(self) -> Task: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def reads_windows(self) -> bool:
        """Whether long texts are read in parts, so that none is too long."""

    def check(self, example: Example) -> None: ...
    def lengths(self, examples: Sequence[Example]) -> list[int]: ...


@dataclass
class LabelledSplit:
    """What is in `train/` or `heldout/`."""

    rows: int = 0
    """Texts."""
    windows: int = 0
    """Rows that the model reads."""
    tokens: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    """Texts by label, or entities by kind."""


@dataclass
class LabelledCounts:
    """Where every row went."""

    rows_read: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    """By reason: passed_over, over_limit_rows, over_train_rows, same_as_a_heldout_row, longer_than_sequence_length, and
    the problems that the spec's `leave_out` names."""
    unknown_keys: dict[str, int] = field(default_factory=dict)
    """Columns that the source does not name, by how many rows have them."""
    truncated_rows: int = 0
    lengths_tokens: dict[str, int] = field(default_factory=dict)
    repeated_in_training: int = 0
    """Training rows with the text of an earlier one."""
    contradicting: int = 0
    """Training rows with the text of an earlier one, but with another label."""
    train: LabelledSplit = field(default_factory=LabelledSplit)
    heldout: LabelledSplit = field(default_factory=LabelledSplit)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def prepare_labelled(
    data: LabelledData,
    files: Mapping[str, Sequence[RowFile]],
    encoder: TaskEncoder,
    seed: int,
    out: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> LabelledCounts:
    """Writes rows to `out/train` and `out/heldout`, with the held-out texts; the same for the same arguments.

    `files`: by the dotted path of the source's reference in the train spec (`data.sources.0.dataset`).
    Raises InputError with every unusable row by number, or where the length policy forbids it.
    """
    counts = LabelledCounts()
    train, heldout = split_examples(data, files, encoder, seed, counts, advance)
    digest = tokenizer_digest(encoder.tokenizer)
    for name, part, split in (("train", train, counts.train), ("heldout", heldout, counts.heldout)):
        rows = [row for of_one in encoder.rows(part) for row in of_one]
        write_task_rows(rows, out / name, digest)
        split.rows, split.windows = len(part), len(rows)
        split.tokens = sum(row.length_tokens for row in rows)
        split.labels = label_counts(part, encoder.task)
    write_examples(heldout, out / "heldout" / EXAMPLES_NAME)
    return counts


def split_examples(
    data: LabelledData,
    files: Mapping[str, Sequence[RowFile]],
    encoder: RowEncoder,
    seed: int,
    counts: LabelledCounts | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[list[Example], list[Example]]:
    """The examples to train on and those held out, in an order that the seed decides."""
    counts = counts or LabelledCounts()
    left_out: Counter[str] = Counter()
    examples = read_examples(data, files, encoder.check, seed, counts, left_out, advance)
    examples = _within_length(examples, data, encoder, counts, left_out)
    train, heldout = split(examples, data, seed, left_out)
    _count_repeated(train, counts)
    counts.left_out = dict(left_out)
    return train, heldout


def split(
    examples: Sequence[Example], data: LabelledData, seed: int, left_out: Counter[str]
) -> tuple[list[Example], list[Example]]:
    """The examples to train on and those held out. Raises InputError where too few are left."""
    if len(examples) < 2 * data.heldout_rows:
        what = f"heldout_rows is {data.heldout_rows}, but there are {len(examples)} rows"
        raise InputError(what, fix=f"Hold out at most {len(examples) // 2}, or add rows.")
    shuffled = in_order_of(seed, examples)
    heldout, others = shuffled[: data.heldout_rows], shuffled[data.heldout_rows :]
    known = {_text_of(example) for example in heldout}
    train = [example for example in others if _text_of(example) not in known]
    if len(examples) - len(heldout) - len(train):
        left_out["same_as_a_heldout_row"] = len(examples) - len(heldout) - len(train)
    if not train:
        what = f"Every row has the text of one of the {len(heldout)} held-out rows: there is nothing to train on"
        raise InputError(what, fix="Hold out fewer rows, or add rows with other texts.")
    if data.train_rows is not None and len(train) > data.train_rows:
        left_out["over_train_rows"] = len(train) - data.train_rows
        train = train[: data.train_rows]
    return train, heldout


def in_order_of(seed: int, examples: Sequence[Example]) -> list[Example]:
    """The examples as the seed shuffles them: the first are held out."""
    return [examples[index] for index in np.random.default_rng([seed, len(examples)]).permutation(len(examples))]


def read_examples(
    data: LabelledData,
    files: Mapping[str, Sequence[RowFile]],
    check: Callable[[Example], None],
    seed: int,
    counts: LabelledCounts,
    left_out: Counter[str],
    advance: Callable[[int], None] = lambda _: None,
) -> list[Example]:
    """Every usable row of the sources. `check` raises ExampleError for one that does not fit the task.

    Raises InputError with every unusable row by number.
    """
    problems = RowProblems(data.leave_out, left_out)
    kept: list[Example] = []
    unknown = Counter[str]()
    for number, source in enumerate(data.sources):
        examples: list[Example] = []
        for origin, row in labelled_rows(
            files[f"data.sources.{number}.dataset"], source.read, source, source.ignore_keys, unknown
        ):
            advance(1)
            if row is None:
                left_out["passed_over"] += 1
            elif isinstance(row, ExampleError):
                problems.add(origin, row)
            elif (problem := _problem(row, check)) is not None:
                problems.add(origin, problem)
            else:
                examples.append(row)
        counts.rows_read[f"{number} {source.location}"] = len(examples)
        if source.limit_rows is not None and len(examples) > source.limit_rows:
            left_out["over_limit_rows"] += len(examples) - source.limit_rows
            chosen = np.random.default_rng([seed, number]).permutation(len(examples))[: source.limit_rows]
            examples = [examples[index] for index in sorted(chosen)]
        kept += examples
    problems.raise_any()
    counts.unknown_keys = dict(unknown)
    return kept


def _problem(example: Example, check: Callable[[Example], None]) -> ExampleError | None:
    try:
        check(example)
    except ExampleError as error:
        return error
    return None


def _within_length(
    examples: list[Example], data: LabelledData, encoder: RowEncoder, counts: LabelledCounts, left_out: Counter[str]
) -> list[Example]:
    lengths = encoder.lengths(examples) if examples else []
    if lengths:
        percentiles = np.percentile(lengths, [50, 90, 99, 100], method="higher")
        names = ("median", "p90", "p99", "longest")
        counts.lengths_tokens = dict(zip(names, (int(length) for length in percentiles), strict=True))
    limit = encoder.max_tokens
    too_long = [number for number, length in enumerate(lengths) if length > limit]
    if not too_long or encoder.reads_windows:
        return examples
    share = len(too_long) / len(examples)
    named = ", ".join(f"{examples[number].origin} ({lengths[number]})" for number in too_long[:5])
    what = f"{len(too_long)} of {len(examples)} rows are longer than sequence_length_tokens ({limit}): {named}"
    if data.length_policy == "error":
        fix = f"Raise sequence_length_tokens to {max(lengths)}, or choose a length_policy."
        raise InputError(what, fix=fix)
    if share > data.max_length_policy_share:
        fix = f"Raise sequence_length_tokens to {max(lengths)}, or data.max_length_policy_share to {share:.2f} or more."
        raise InputError(f"{what}; that is {share:.1%}, over max_length_policy_share", fix=fix)
    if data.length_policy == "drop":
        left_out["longer_than_sequence_length"] = len(too_long)
        return [example for example, length in zip(examples, lengths, strict=True) if length <= limit]
    counts.truncated_rows = len(too_long)
    return examples


def _text_of(example: Example) -> tuple[str, str | None]:
    return example.text, example.pair


def _count_repeated(train: Sequence[Example], counts: LabelledCounts) -> None:
    first: dict[tuple[Any, ...], Example] = {}
    for example in train:
        # A relation's text may stand there many times, each with other entities marked.
        marks = tuple(span for span in example.spans if span.label in ("head", "tail"))
        earlier = first.setdefault((*_text_of(example), marks), example)
        if earlier is not example:
            counts.repeated_in_training += 1
            counts.contradicting += earlier.labels != example.labels


def label_counts(examples: Sequence[Example], task: Task) -> dict[str, int]:
    """How often the data say each thing, the most frequent first."""
    return dict(Counter(label for example in examples for label in said_of(example, task)).most_common())


def said_of(example: Example, task: Task) -> tuple[str, ...]:
    """What the data says about an example, for counting."""
    if isinstance(task, QuestionAnswering):
        return ("answer",) if example.spans else (NO_ANSWER,)
    if isinstance(task, SequenceToSequence):
        return ("text",)
    if isinstance(task, TokenClassification):
        return tuple(span.label for span in example.spans) or (NO_ENTITY,)
    return example.labels or (NO_LABEL,)
