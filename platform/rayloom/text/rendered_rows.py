"""Rows of data sets rendered for training: filters and limits applied, every bad row named."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rayloom.errors import InputError
from rayloom.specs.train import ConversationData, ConversationSource
from rayloom.text.conversation_counts import ConversationCounts
from rayloom.text.formats import conversation, read_rows
from rayloom.text.messages import ConversationError
from rayloom.text.render import Conversation, Renderer, Sample

NUM_PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class RenderedRow:
    """One row of a data set, ready for training."""

    origin: str
    samples: tuple[Sample, ...]
    source: int
    repeat: int
    digest: bytes
    """Equal for rows that would train the same ids."""

    @property
    def length_tokens(self) -> int:
        return max(len(sample.tokens) for sample in self.samples)


def render_rows(
    data: ConversationData,
    files: Mapping[str, Sequence[Path]],
    renderer: Renderer,
    seed: int,
    counts: ConversationCounts,
    advance: Callable[[int], None] = lambda _: None,
) -> list[RenderedRow]:
    """The rows of all sources after their filters and limits, in order. Raises InputError naming every bad row.

    `files`: as in `conversations.prepare`. `advance` is told of every row that is dealt with.
    """
    rendered: list[RenderedRow] = []
    problems: list[str] = []
    for number, source in enumerate(data.sources):
        label = f"{number} {source.dataset}"
        found = _read_source(source, files[f"data.sources.{number}.dataset"], data.system, problems)
        counts.rows_read[label] = len(found)
        order = np.random.default_rng([seed, number]).permutation(len(found))
        rows = _chosen(source, number, [found[i] for i in order], renderer, problems, counts, advance)
        rendered += [row for _, row in sorted(zip(order, rows, strict=False), key=lambda pair: pair[0]) if row]
    if problems:
        raise _bad_rows(problems)
    return rendered


def _read_source(
    source: ConversationSource, files: Sequence[Path], system: str | None, problems: list[str]
) -> list[Conversation]:
    found = []
    for origin, row in read_rows(files):
        try:
            read = conversation(row, source.format, source.fill, origin)
        except ConversationError as error:
            problems.append(f"{origin} {error}")
            continue
        found.append(_with_system(read, system))
    return found


def _with_system(read: Conversation, system: str | None) -> Conversation:
    brings_one = read.messages and read.messages[0].get("role") in ("system", "developer")
    if system is None or brings_one:
        return read
    return Conversation(({"role": "system", "content": system}, *read.messages), read.tools, read.origin)


def _chosen(
    source: ConversationSource,
    number: int,
    conversations: Sequence[Conversation],
    renderer: Renderer,
    problems: list[str],
    counts: ConversationCounts,
    advance: Callable[[int], None],
) -> list[RenderedRow | None]:
    """One entry for each conversation: its row, or None where it is left out."""
    left_out: Counter[str] = Counter(counts.left_out)
    rows: list[RenderedRow | None] = []
    kept = 0
    for item in conversations:
        advance(1)
        row = None
        if source.limit_rows is not None and kept >= source.limit_rows:
            left_out["over_limit_rows"] += 1
        else:
            row = _render(item, number, source.repeat, renderer, problems)
            if row and source.max_row_tokens is not None and row.length_tokens > source.max_row_tokens:
                left_out["longer_than_max_row_tokens"] += 1
                row = None
        kept += row is not None
        rows.append(row)
    counts.left_out = dict(left_out)
    return rows


def _render(
    item: Conversation, source: int, repeat: int, renderer: Renderer, problems: list[str]
) -> RenderedRow | None:
    try:
        samples = tuple(renderer.samples(item))
    except ConversationError as error:
        problems.append(f"{item.origin} {error}")
        return None
    content = repr([(sample.tokens, sample.trained) for sample in samples]).encode()
    return RenderedRow(item.origin, samples, source, repeat, hashlib.blake2b(content, digest_size=16).digest())


def _bad_rows(problems: Sequence[str]) -> InputError:
    shown = "\n".join(f"  {problem}" for problem in problems[:NUM_PROBLEMS_SHOWN])
    more = len(problems) - NUM_PROBLEMS_SHOWN
    rest = f"\n  and {more} more" if more > 0 else ""
    count = "1 row" if len(problems) == 1 else f"{len(problems)} rows"
    what = f"{count} cannot be trained on:\n{shown}{rest}\n"
    return InputError(what, fix="Correct or remove these rows, or name other `files`.")
