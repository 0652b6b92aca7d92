"""Texts of a task as token ids with their targets, the same for training, evaluation and prediction.

A text that a task labels as a whole is one row. Where the task marks places, a long text is several overlapping
windows, and each of its tokens is judged in the window where it has the most context (Devlin et al.'s SQuAD code).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rayloom.errors import InputError
from rayloom.specs.training.tasks import (
    QuestionAnswering,
    RelationExtraction,
    SequenceToSequence,
    Task,
    TextClassification,
    TokenClassification,
)
from rayloom.text.labelled.examples import Example, Span, check_example, tags_of_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_TARGET = -100
"""Target of a token or row without a label (as `score.batches.NO_LABEL`)."""
HEAD_MARK, TAIL_MARK = "@", "#"


@dataclass(frozen=True)
class EncodedRow:
    """One row that a model reads."""

    tokens: NDArray[np.int64]
    """(T,) token ids, special tokens in place."""
    segments: NDArray[np.int64]
    """(T,) 0 for the first text, 1 for the second."""
    targets: NDArray[np.int64]
    """Of a text: (1,) the label, or (K,) 0 or 1 for each label. Of tokens: (T,) tags. Of a question: (2,) first and
    last token of the answer, both 0 (the first special token) where this window has none. Of a text to write:
    its ids."""
    offsets: tuple[tuple[int, int], ...] = ()
    """(T,) start and end of each token in the text; (0, 0) for a token that is not from the text."""
    is_judged: NDArray[np.bool_] | None = None
    """(T,) whether this window, of all that contain the token, gives it the most context."""

    @property
    def length_tokens(self) -> int:
        return len(self.tokens)


class TaskEncoder:
    """Encodes examples for one task with one tokenizer."""

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        if not tokenizer.is_fast:
            fix = "Use a model that brings tokenizer.json."
            raise InputError("Tasks need a tokenizer that says where in the text its tokens are", fix=fix)
        self.task, self.tokenizer, self.max_tokens = task, tokenizer, max_tokens
        self._number = {label: number for number, label in enumerate(getattr(task, "labels", ()))}

    @classmethod
    def of_folder(cls, task: Task, folder: Path, max_tokens: int) -> TaskEncoder:
        from rayloom.pretrained import AutoTokenizer

        return cls(task, AutoTokenizer.from_pretrained(folder), max_tokens)

    @property
    def reads_windows(self) -> bool:
        return isinstance(self.task, TokenClassification | QuestionAnswering)

    def lengths(self, examples: Sequence[Example]) -> list[int]:
        """Number of tokens of each example before truncation, with special tokens; more than `max_tokens` also if its
        target is too long."""
        encoded = self._tokenised(examples, truncation=False)
        num_tokens = [len(ids) for ids in encoded["input_ids"]]
        if isinstance(self.task, SequenceToSequence):
            spare = self.max_tokens - self.task.max_target_tokens
            targets = (len(self._target(example)) for example in examples)
            num_tokens = [max(length, target + spare) for length, target in zip(num_tokens, targets, strict=True)]
        return num_tokens

    def cut(self, examples: Sequence[Example]) -> list[str]:
        """The part of each text that the model reads after truncation, followed by the second text if there is one."""
        if self._reads_both_ends(examples):
            offsets = self._tokenised(examples, truncation=False)["offset_mapping"]
            return [self._ends_of(example.text, covered) for example, covered in zip(examples, offsets, strict=True)]
        encoded = self._tokenised(examples, truncation=True, max_length=self.max_tokens)
        shortened = []
        for number, example in enumerate(examples):
            ends = [0, 0]
            for side, (_, end) in zip(encoded.sequence_ids(number), encoded["offset_mapping"][number], strict=True):
                if side is not None:
                    ends[side] = max(ends[side], end)
            first, second = self._texts(example)
            shortened.append(f"{first[: ends[0]]} {(second or '')[: ends[1]]}".strip())
        return shortened

    def rows(self, examples: Sequence[Example]) -> list[list[EncodedRow]]:
        """The rows of each example: one, or one for each window. Without windows, a text longer than a row is
        truncated."""
        if not examples:
            return []
        if self.reads_windows:
            return self._windows(examples)
        # Where both ends are read, all is tokenised first and the middle left out then.
        is_cut = not self._reads_both_ends(examples)
        encoded = self._tokenised(examples, truncation=is_cut, **({"max_length": self.max_tokens} if is_cut else {}))
        return [[self._text_row(encoded, number, example)] for number, example in enumerate(examples)]

    def check(self, example: Example) -> None:
        """As `check_example`, for the encoder's task."""
        check_example(self.task, example)

    # -- long texts ----------------------------------------------------------------------------------------------------

    def _reads_both_ends(self, examples: Sequence[Example]) -> bool:
        reads = isinstance(self.task, TextClassification) and self.task.long_texts == "both_ends"
        return reads and all(example.pair is None for example in examples)

    def _ends_of(self, text: str, offsets: Sequence[tuple[int, int]]) -> str:
        if len(offsets) <= self.max_tokens:
            return text
        num_first = self.max_tokens // 4
        _, until = offsets[num_first - 1]
        since, _ = next(offset for offset in offsets[len(offsets) - self.max_tokens + num_first :] if offset != (0, 0))
        return f"{text[:until]} {text[since:]}"

    # -- whole texts ---------------------------------------------------------------------------------------------------

    def _text_row(self, encoded: Any, number: int, example: Example) -> EncodedRow:
        places = both_ends(len(encoded["input_ids"][number]), self.max_tokens)
        tokens = np.asarray(encoded["input_ids"][number], np.int64)[places]
        segments = self._segments(encoded, number)[places]
        if isinstance(self.task, SequenceToSequence):
            return EncodedRow(tokens, segments, self._target(example)[: self.task.max_target_tokens])
        return EncodedRow(tokens, segments, self._text_targets(example))

    def _target(self, example: Example) -> NDArray[np.int64]:
        """The token ids of the text to generate, with the end token; empty if the example has no such text."""
        if not example.labels:
            return np.zeros(0, np.int64)
        ids = self.tokenizer(text_target=example.labels[0], verbose=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        return np.asarray(ids if end is None or ids[-1:] == [end] else [*ids, end], np.int64)

    def _text_targets(self, example: Example) -> NDArray[np.int64]:
        numbers = [self._number[label] for label in example.labels]
        if isinstance(self.task, TextClassification) and self.task.multiple:
            return np.isin(np.arange(len(self._number)), numbers).astype(np.int64)
        return np.asarray(numbers[:1] or [NO_TARGET], np.int64)

    # -- places in texts -----------------------------------------------------------------------------------------------

    def _windows(self, examples: Sequence[Example]) -> list[list[EncodedRow]]:
        overlap = min(self.task.overlap_tokens, self.max_tokens // 2)  # type: ignore[union-attr]
        second_only = "only_second" if isinstance(self.task, QuestionAnswering) else True
        try:
            encoded = self._tokenised(
                examples,
                truncation=second_only,
                max_length=self.max_tokens,
                stride=overlap,
                return_overflowing_tokens=True,
            )
        except Exception as error:
            # The tokenizers library raises plain exceptions, as where the question alone fills the row.
            what = f"A text cannot be cut into windows of {self.max_tokens} tokens: {error}"
            raise InputError(what, fix="Raise sequence_length_tokens, or lower overlap_tokens.") from error
        of_example: list[list[int]] = [[] for _ in examples]
        for window, number in enumerate(encoded["overflow_to_sample_mapping"]):
            of_example[number].append(window)
        return [self._windows_of(encoded, windows, examples[number]) for number, windows in enumerate(of_example)]

    def _windows_of(self, encoded: Any, windows: Sequence[int], example: Example) -> list[EncodedRow]:
        offsets = [self._text_offsets(encoded, window) for window in windows]
        judged = most_context(offsets)
        rows = []
        for window, covered, is_judged in zip(windows, offsets, judged, strict=True):
            tokens = np.asarray(encoded["input_ids"][window], np.int64)
            targets = self._place_targets(covered, example)
            rows.append(EncodedRow(tokens, self._segments(encoded, window), targets, tuple(covered), is_judged))
        return rows

    def _text_offsets(self, encoded: Any, window: int) -> list[tuple[int, int]]:
        """Start and end of each token in the text that has the marks: for questions the second text, else the first."""
        of_text = 1 if isinstance(self.task, QuestionAnswering) else 0
        sides = encoded.sequence_ids(window)
        offsets = encoded["offset_mapping"][window]
        return [(int(s), int(e)) if side == of_text else (0, 0) for (s, e), side in zip(offsets, sides, strict=True)]

    def _place_targets(self, offsets: Sequence[tuple[int, int]], example: Example) -> NDArray[np.int64]:
        if isinstance(self.task, QuestionAnswering):
            return np.asarray(answer_tokens(offsets, example.spans), np.int64)
        tags = tags_of_tokens(offsets, example.spans)
        numbers = [
            NO_TARGET if start == end else self._number[tag] for (start, end), tag in zip(offsets, tags, strict=True)
        ]
        return np.asarray(numbers, np.int64)

    # -- tokens --------------------------------------------------------------------------------------------------------

    def _tokenised(self, examples: Sequence[Example], **settings: Any) -> Any:
        firsts, seconds = zip(*(self._texts(example) for example in examples), strict=True)
        has_pairs = any(second is not None for second in seconds)
        pairs = [[second or "" for second in seconds]] if has_pairs else []
        return self.tokenizer(
            list(firsts),
            *pairs,
            return_offsets_mapping=True,
            return_token_type_ids=True,
            return_attention_mask=False,
            verbose=False,
            **settings,
        )

    def _texts(self, example: Example) -> tuple[str, str | None]:
        if isinstance(self.task, QuestionAnswering):
            return example.pair or "", example.text
        if isinstance(self.task, RelationExtraction):
            return marked_entities(example.text, example.spans), None
        return example.text, example.pair

    def _segments(self, encoded: Any, number: int) -> NDArray[np.int64]:
        return np.asarray(encoded["token_type_ids"][number], np.int64)


def both_ends(length: int, limit: int) -> NDArray[np.int64]:
    """The positions of a row that are read: all, or `limit` of them, a quarter at the beginning and the rest at the
    end.

    Special tokens stand at the very ends, so that they stay."""
    if length <= limit:
        return np.arange(length)
    num_first = limit // 4
    return np.concatenate([np.arange(num_first), np.arange(length - limit + num_first, length)])


def marked_entities(text: str, spans: Sequence[Span]) -> str:
    """The text with the head entity between @ signs and the tail entity between # signs."""
    marks = {"head": HEAD_MARK, "tail": TAIL_MARK}
    for span in sorted(spans, key=lambda span: -span.start):
        mark = marks[span.label]
        text = f"{text[: span.start]}{mark} {text[span.start : span.end]} {mark}{text[span.end :]}"
    return text


def answer_tokens(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> tuple[int, int]:
    """First and last token of the first answer that is completely inside this window; (0, 0) if there is none."""
    for span in spans:
        inside = [n for n, (start, end) in enumerate(offsets) if start < span.end and end > span.start and start < end]
        if inside and offsets[inside[0]][0] <= span.start and offsets[inside[-1]][1] >= span.end:
            return inside[0], inside[-1]
    return 0, 0


def most_context(windows: Sequence[Sequence[tuple[int, int]]]) -> list[NDArray[np.bool_]]:
    """For each window, the tokens that are evaluated in it: those that have more context there than in any other
    window."""
    best: dict[tuple[int, int], tuple[int, int]] = {}
    for number, offsets in enumerate(windows):
        places = [index for index, (start, end) in enumerate(offsets) if start < end]
        for index in places:
            context = min(index - places[0], places[-1] - index)
            if offsets[index] not in best or context > best[offsets[index]][0]:
                best[offsets[index]] = (context, number)
    return [
        np.asarray([s < e and best[s, e][1] == number for s, e in offsets], np.bool_)
        for number, offsets in enumerate(windows)
    ]
