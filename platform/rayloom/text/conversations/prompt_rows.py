"""Prompts that a model answers while it trains, rendered as the server renders them, each with its row for rewards."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rayloom.errors import InputError
from rayloom.reading.files import RowFile, table_rows
from rayloom.specs.training.policies import PromptData
from rayloom.text.conversations.formats import COMMON_KEYS, messages_of, recognised, row_values, with_row_keys
from rayloom.text.conversations.heldout_prompts import in_drawn_order, split_by_prompt
from rayloom.text.conversations.messages import ConversationError, check_turns
from rayloom.text.conversations.render import Renderer
from rayloom.text.conversations.row_keys import unknown_keys
from rayloom.text.conversations.row_messages import read_messages
from rayloom.text.row_problems import RowProblems
from rayloom.text.tokenizer_files import tokenizer_digest

PROMPTS_NAME, BEGINS_NAME, FACTS_NAME = "prompts.jsonl", "begins.npy", "facts.json"
_COLUMNS = {"messages": ("messages",), "prompt": ("prompt",)}


@dataclass(frozen=True)
class PromptRow:
    """One prompt."""

    origin: str
    """Where it was read: `file.json row 7`."""
    tokens: list[int]
    """Its ids, up to where the answer begins."""
    messages: list[dict[str, Any]]
    row: dict[str, Any]
    """The row as it was read, for the rewards."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Settings of the chat template for this row."""


@dataclass
class PromptCounts:
    """Where every row went."""

    rows_read: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    lengths_tokens: dict[str, int] = field(default_factory=dict)
    train: dict[str, int] = field(default_factory=dict)
    heldout: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class PromptRows:
    """The prompts of a folder, by number."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        facts = json.loads((directory / FACTS_NAME).read_text())
        self.num_tokens, self.tokenizer_digest = int(facts["num_tokens"]), str(facts["tokenizer_digest"])
        self._begins = np.load(directory / BEGINS_NAME, allow_pickle=False)

    def __len__(self) -> int:
        return len(self._begins) - 1

    def row(self, index: int) -> PromptRow:
        begin, end = int(self._begins[index]), int(self._begins[index + 1])
        with (self.directory / PROMPTS_NAME).open("rb") as file:
            file.seek(begin)
            return PromptRow(**json.loads(file.read(end - begin)))


def write_prompts(rows: Sequence[PromptRow], digest: str, directory: Path) -> None:
    """Writes the folder of `PromptRows`."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(row), ensure_ascii=False, default=str).encode() + b"\n" for row in rows]
    (directory / PROMPTS_NAME).write_bytes(b"".join(lines))
    np.save(directory / BEGINS_NAME, np.cumsum([0, *map(len, lines)]), allow_pickle=False)
    facts = {"num_tokens": sum(len(row.tokens) for row in rows), "tokenizer_digest": digest}
    (directory / FACTS_NAME).write_text(json.dumps(facts))


def prompt_row(values: Any, data: PromptData, origin: str, renderer: Renderer, ignored: Sequence[str]) -> PromptRow:
    """One row of data as a prompt. Raises ConversationError saying what is wrong with it."""
    row = row_values(values, ignored, {})
    column = recognised(row, _COLUMNS)
    if column == "messages":
        messages = read_messages(row[column], column, ignored, [])
    else:
        messages = messages_of(row, column, "user", ignored, [])
    known = {key: row[key] for key in (column, *COMMON_KEYS) if key in row}
    for _ in unknown_keys(row, known, is_conversation=False):
        pass  # other columns are for rewards; pictures and marks of training are refused
    read = with_row_keys(known, (column,), messages, origin, [])
    asked = [dict(message) for message in read.messages]
    if data.system is not None and asked and asked[0]["role"] not in ("system", "developer"):
        asked.insert(0, {"role": "system", "content": data.system})
    # An answer to come makes it a conversation that takes turns.
    check_turns([*asked, {"role": "assistant", "content": "…"}])
    tokens = renderer.prompt(asked, read.tools, read.template_kwargs)
    return PromptRow(origin, tokens, asked, row, list(map(dict, read.tools)), dict(read.template_kwargs))


def prepare_prompts(
    data: PromptData,
    files: Mapping[str, Sequence[RowFile]],
    renderer: Renderer,
    max_prompt_tokens: int,
    seed: int,
    out: Path,
    advance: Callable[[int], None] = lambda _: None,
    check: Callable[[PromptRow], None] = lambda _: None,
) -> PromptCounts:
    """Writes prompts to `out/train` and `out/heldout`. Raises InputError with every unusable row by number.

    check: raises ConversationError for a prompt that cannot be used.
    """
    counts, problems, rows = PromptCounts(), RowProblems(data.leave_out), list[PromptRow]()
    for number, source in enumerate(data.sources):
        found = []
        for origin, values in table_rows(files[f"data.sources.{number}.dataset"], source):
            advance(1)
            try:
                row = prompt_row(values, data, origin, renderer, source.ignore_keys)
                check(row)
                found.append(row)
            except ConversationError as error:
                problems.add(origin, error)
        counts.rows_read[f"{number} {source.location}"] = len(found)
        if source.limit_rows is not None and len(found) > source.limit_rows:
            chosen = np.random.default_rng([seed, number]).permutation(len(found))[: source.limit_rows]
            found = [found[index] for index in sorted(chosen)]
        rows += found
    problems.raise_any()
    rows = _within_length(rows, data, max_prompt_tokens, counts, problems)
    parts = split_by_prompt(in_drawn_order(rows, seed), data.heldout_rows, lambda row: tuple(row.tokens), problems)
    counts.left_out = dict(problems.left_out)
    digest = tokenizer_digest(renderer.tokenizer)
    for name, part in parts.items():
        write_prompts(part, digest, out / name)
        setattr(counts, name, {"rows": len(part), "tokens": sum(len(row.tokens) for row in part)})
    return counts


def _within_length(
    rows: list[PromptRow], data: PromptData, limit: int, counts: PromptCounts, problems: RowProblems
) -> list[PromptRow]:
    if rows:
        found = np.percentile([len(row.tokens) for row in rows], [50, 90, 99, 100], method="higher")
        names = ("median", "p90", "p99", "longest")
        counts.lengths_tokens = dict(zip(names, (int(length) for length in found), strict=True))
    too_long = [row for row in rows if len(row.tokens) > limit]
    if not too_long:
        return rows
    named = ", ".join(f"{row.origin} ({len(row.tokens)})" for row in too_long[:5])
    what = f"{len(too_long)} of {len(rows)} prompts leave no room for an answer (they may have {limit} tokens): {named}"
    longest = max(len(row.tokens) for row in too_long)
    fix = f"Raise sequence_length_tokens by {longest - limit}, lower rollouts.max_answer_tokens, or set length_policy."
    if data.length_policy == "error" or len(too_long) > data.max_length_policy_share * len(rows):
        raise InputError(what, fix=fix)
    problems.left_out["no_room_for_an_answer"] = len(too_long)
    return [row for row in rows if len(row.tokens) <= limit]
