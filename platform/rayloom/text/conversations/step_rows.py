"""Answers whose steps were judged one by one, as rows: ids of prompt and steps, with a label where each step ends.

Every step ends with the same text, the separator. A step is encoded by itself, so that the place at which it is judged
is the same in training and wherever answers are scored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayloom.reading.files import RowFile, table_rows
from rayloom.specs.training.preferences import PreferenceData
from rayloom.text.conversations.formats import messages_of, need, row_values
from rayloom.text.conversations.heldout_prompts import in_drawn_order, split_by_prompt
from rayloom.text.conversations.messages import ConversationError, check_turns
from rayloom.text.conversations.preference_counts import PreferenceCounts, within_length
from rayloom.text.conversations.render import Renderer
from rayloom.text.row_problems import RowProblems
from rayloom.text.tokenizer_files import tokenizer_digest

STEPS_NAME, FACTS_NAME = "steps.npz", "facts.json"
NO_TARGET = -100
"""Target of a token at which no step ends (as `score.batches.NO_LABEL`)."""


class StepTokens(NamedTuple):
    """A prompt with steps behind it."""

    tokens: list[int]
    ends: list[int]
    """Where the last token of each step is."""


@dataclass(frozen=True)
class StepRow:
    """An answer whose steps were judged, as a row of a task whose targets are tags."""

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    """(T,) 1 where a right step ends, 0 where a wrong one does."""
    origin: str = ""

    @property
    def segments(self) -> NDArray[np.int64]:
        return np.zeros_like(self.tokens)

    @property
    def length_tokens(self) -> int:
        return len(self.tokens)


class StepRows:
    """Such rows in a folder, by number."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with np.load(directory / STEPS_NAME, allow_pickle=False) as found:
            self._tokens, self._targets, self._begins = found["tokens"], found["targets"], found["begins"]
        self.tokenizer_digest = str(json.loads((directory / FACTS_NAME).read_text())["tokenizer_digest"])

    def __len__(self) -> int:
        return len(self._begins) - 1

    @property
    def num_tokens(self) -> int:
        return len(self._tokens)

    def row(self, index: int) -> StepRow:
        part = slice(int(self._begins[index]), int(self._begins[index + 1]))
        return StepRow(self._tokens[part].astype(np.int64), self._targets[part].astype(np.int64))


def steps_of(text: str, separator: str) -> list[str]:
    """The steps of an answer."""
    return [step.strip() for step in text.split(separator) if step.strip()]


def step_tokens(
    renderer: Renderer, prompt: Sequence[Mapping[str, Any]], steps: Sequence[str], separator: str
) -> StepTokens:
    """The ids that a process reward reads. Raises ConversationError where the prompt cannot be rendered."""
    tokens, ends = renderer.prompt(prompt), list[int]()
    for step in steps:
        tokens += renderer.tokenizer.encode(step + separator, add_special_tokens=False)
        ends.append(len(tokens) - 1)
    return StepTokens(tokens, ends)


def step_row(values: Any, origin: str, renderer: Renderer, separator: str, ignored: Sequence[str]) -> StepRow:
    """A row with `prompt`, `completions` (the steps) and `labels`. Raises ConversationError saying what it lacks."""
    row = row_values(values, ignored, {})
    need(row, "prompt", "completions", "labels")
    prompt = messages_of(row, "prompt", "user", ignored, [])
    check_turns([*prompt, {"role": "assistant", "content": "…"}])
    steps, labels = row["completions"], row["labels"]
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) and step.strip() for step in steps):
        raise ConversationError("no_answer", "`completions` is no list of steps, each a text that says something")
    if not isinstance(labels, list) or len(labels) != len(steps) or not all(label in (0, 1) for label in labels):
        raise ConversationError("bad_mark", f"`labels` must have true or false for each of the {len(steps)} steps")
    if any(len(steps_of(step, separator)) != 1 for step in steps):
        raise ConversationError("bad_mark", f"a step contains {separator!r}, which separates steps")
    tokens, ends = step_tokens(renderer, prompt, [step.strip() for step in steps], separator)
    targets = np.full(len(tokens), NO_TARGET, np.int64)
    targets[ends] = [int(label) for label in labels]
    return StepRow(np.asarray(tokens, np.int64), targets, origin)


def prepare_steps(
    data: PreferenceData,
    files: Mapping[str, Sequence[RowFile]],
    renderer: Renderer,
    separator: str,
    sequence_length_tokens: int,
    seed: int,
    out: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> PreferenceCounts:
    """Writes rows to `out/train` and `out/heldout`. Raises InputError with every unusable row by number."""
    counts, problems, rows = PreferenceCounts(), RowProblems(data.leave_out), list[StepRow]()
    for number, source in enumerate(data.sources):
        found = []
        for origin, values in table_rows(files[f"data.sources.{number}.dataset"], source):
            advance(1)
            try:
                found.append(step_row(values, origin, renderer, separator, source.ignore_keys))
            except ConversationError as error:
                problems.add(origin, error)
        counts.rows_read[f"{number} {source.location}"] = len(found)
        order = np.random.default_rng([seed, number]).permutation(len(found))[: source.limit_rows]
        rows += [found[index] for index in sorted(order)]
    problems.raise_any()
    rows = within_length(rows, data, sequence_length_tokens, counts, problems)
    parts = split_by_prompt(in_drawn_order(rows, seed), data.heldout_rows, _prompt, problems)
    counts.left_out = dict(problems.left_out)
    for name, part in parts.items():
        _write(part, out / name, tokenizer_digest(renderer.tokenizer))
        judged = np.concatenate([row.targets[row.targets != NO_TARGET] for row in part])
        sizes = {"rows": len(part), "tokens": sum(row.length_tokens for row in part)}
        setattr(counts, name, sizes | {"trained_tokens": len(judged), "good": int(judged.sum())})
    return counts


def _prompt(row: StepRow) -> bytes:
    """What stands before the first step's end; enough to know rows of the same prompt that begin alike."""
    return row.tokens[: int(np.flatnonzero(row.targets != NO_TARGET)[0])].tobytes()


def _write(rows: Sequence[StepRow], directory: Path, digest: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    np.savez(
        directory / STEPS_NAME,
        tokens=np.concatenate([row.tokens for row in rows]).astype(np.int32),
        targets=np.concatenate([row.targets for row in rows]).astype(np.int16),
        begins=np.cumsum([0, *(row.length_tokens for row in rows)]),
    )
    (directory / FACTS_NAME).write_text(json.dumps({"tokenizer_digest": digest}))
