"""Data sets of conversations made into packed token shards, every row accounted for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rayloom.errors import InputError
from rayloom.reading.files import RowFile
from rayloom.specs.training.training_data import ConversationData
from rayloom.text.conversations.render import Renderer, Sample
from rayloom.text.conversations.rendered_rows import ConversationCounts, RenderedRow, SplitCounts, render_rows
from rayloom.text.packed.shards import ShardWriter
from rayloom.text.tokenizer_files import tokenizer_digest


def prepare(
    data: ConversationData,
    files: Mapping[str, Sequence[RowFile]],
    renderer: Renderer,
    sequence_length_tokens: int,
    seed: int,
    out: Path,
    advance: Callable[[int], None] = lambda _: None,
    *,
    packs_rows: bool = True,
) -> ConversationCounts:
    """Writes token shards to `out/train` and `out/heldout`, the same bytes for the same arguments.

    `files`: the files of each source that fit its pattern, by the dotted path of the source's reference in the train
    spec (`data.sources.0.dataset`). `advance` is told of every row that is dealt with. `packs_rows`: whether several
    samples may share a row.
    Raises InputError with every unusable row by number, or where the length policy forbids it.
    """
    counts = ConversationCounts()
    rows = render_rows(data, files, renderer, seed, counts, advance)
    counts.lengths_tokens = _lengths(rows)
    rows = _apply_length_policy(rows, data, sequence_length_tokens, counts)
    heldout, train = split_heldout(rows, data.heldout_rows, seed, counts)
    counts.repeated_in_training = len(train) - len({row.digest for row in train})
    digest = tokenizer_digest(renderer.tokenizer)
    for name, part, split in (("train", train, counts.train), ("heldout", heldout, counts.heldout)):
        writer = ShardWriter(out / name, len(renderer.tokenizer), digest, sequence_length_tokens=sequence_length_tokens)
        repeated = [row for row in part for _ in range(row.repeat if name == "train" else 1)]
        split.rows = len(repeated)
        samples = [sample for row in repeated for sample in row.samples]
        lengths = [sample.num_tokens for sample in samples]
        alone = [[index] for index in range(len(samples))]
        together = best_fit_decreasing(lengths, sequence_length_tokens) if packs_rows else alone
        _write(samples, together, seed, writer)
        _count(samples, len(together), sequence_length_tokens, split)
    return counts


def _lengths(rows: Sequence[RenderedRow]) -> dict[str, int]:
    if not rows:
        return {}
    found = np.percentile([row.length_tokens for row in rows], [50, 90, 99, 100], method="higher")
    return dict(zip(("median", "p90", "p99", "longest"), (int(length) for length in found), strict=True))


def _apply_length_policy(
    rows: list[RenderedRow], data: ConversationData, limit: int, counts: ConversationCounts
) -> list[RenderedRow]:
    too_long = [row for row in rows if row.length_tokens > limit]
    share = len(too_long) / len(rows) if rows else 0.0
    if not too_long:
        return rows
    named = ", ".join(f"{row.origin} ({row.length_tokens})" for row in too_long[:5])
    what = f"{len(too_long)} of {len(rows)} rows are longer than sequence_length_tokens ({limit}): {named}"
    longest = max(row.length_tokens for row in too_long)
    if data.length_policy == "error":
        fix = f"Raise sequence_length_tokens to {longest}, set max_row_tokens, or choose a length_policy."
        raise InputError(what, fix=fix)
    if share > data.max_length_policy_share:
        fix = f"Raise sequence_length_tokens to {longest}, or data.max_length_policy_share."
        raise InputError(f"{what}; that is {share:.1%}, over max_length_policy_share", fix=fix)
    if data.length_policy == "drop":
        counts.left_out["longer_than_sequence_length"] = len(too_long)
        return [row for row in rows if row.length_tokens <= limit]
    counts.truncated_rows = len(too_long)
    return [_truncated(row, limit) if row.length_tokens > limit else row for row in rows]


def _truncated(row: RenderedRow, limit: int) -> RenderedRow:
    samples = tuple(sample.shortened(limit) for sample in row.samples)
    if not all(sample.num_trained for sample in samples):
        fix = "Raise sequence_length_tokens, or drop such rows with length_policy: drop."
        raise InputError(f"No trained token is left of {row.origin} after truncation to {limit} tokens", fix=fix)
    return RenderedRow(row.origin, samples, row.source, row.repeat, row.digest)


def split_heldout(
    rows: Sequence[RenderedRow], num_heldout: int, seed: int, counts: ConversationCounts
) -> tuple[list[RenderedRow], list[RenderedRow]]:
    """Held-out rows, chosen by the seed from sources that are not repeated, and the rest without their duplicates."""
    distinct = {row.digest: index for index, row in reversed(list(enumerate(rows))) if row.repeat == 1}
    candidates = sorted(distinct.values())
    if len(candidates) < 2 * num_heldout:
        what = f"heldout_rows is {num_heldout}, but the sources with repeat: 1 have {len(candidates)} different rows"
        raise InputError(what, fix=f"Hold out at most {len(candidates) // 2}, or add rows.")
    picked = np.random.default_rng([seed, len(rows)]).permutation(len(candidates))[:num_heldout]
    heldout = [rows[candidates[i]] for i in sorted(picked)]
    digests = {row.digest for row in heldout}
    train = [row for row in rows if row.digest not in digests]
    duplicates = len(rows) - len(heldout) - len(train)
    if duplicates:
        counts.left_out["same_as_a_heldout_row"] = duplicates
    return heldout, train


def _write(samples: Sequence[Sample], rows: Sequence[Sequence[int]], seed: int, writer: ShardWriter) -> None:
    # Best fit leaves the longest first; a run that ends early should have seen all kinds.
    for row in np.random.default_rng([seed, len(rows)]).permutation(len(rows)):
        writer.start_row()
        for index in rows[row]:
            writer.add(samples[index].tokens, np.asarray(samples[index].trained, np.bool_))
    writer.close()


def _count(samples: Sequence[Sample], num_rows: int, length: int, split: SplitCounts) -> None:
    split.samples, split.packed_rows = len(samples), num_rows
    split.tokens = sum(sample.num_tokens for sample in samples)
    split.trained_tokens = sum(sample.num_trained for sample in samples)
    split.filled_share = round(split.tokens / (num_rows * length), 4)


# Samples put into rows of a fixed length, so that few places of a batch are empty.


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which samples share a row: indices of `lengths` by row, longest first, each into the fullest row that takes it.

    No length may be over `capacity`. Takes O(n · capacity / 64) steps: the rows' free places are bits of one integer.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    rows: list[list[int]] = []
    rows_with_free: dict[int, list[int]] = {}
    free_places = 0  # bit f is set where some row has f places left
    for index in order:
        length = lengths[index]
        fitting = free_places >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            row = rows_with_free[free].pop()
            if not rows_with_free[free]:
                free_places &= ~(1 << free)
        else:
            free, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        left = free - length
        if left:
            rows_with_free.setdefault(left, []).append(row)
            free_places |= 1 << left
    return rows
