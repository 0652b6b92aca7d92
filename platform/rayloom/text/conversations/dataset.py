"""Data sets of conversations made into packed token shards, every row accounted for.

Rows are read in blocks, which workers render and tokenise; what they make is put on disk as it comes. In memory are a
few blocks and some 100 bytes a row. Which rows are held out, and what stands together, is decided when all are there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rayloom.errors import InputError
from rayloom.reading.files import RowFile
from rayloom.specs.training.training_data import ConversationData
from rayloom.text.conversations.block_results import BlockResults, Rows
from rayloom.text.conversations.render import Renderer
from rayloom.text.conversations.rendered_rows import ConversationCounts, SplitCounts
from rayloom.text.conversations.row_sample import RowSample
from rayloom.text.packed.packing import best_fit_decreasing, ranges, shuffled
from rayloom.text.packed.sample_file import SampleOrder
from rayloom.text.packed.shards import shard_facts
from rayloom.text.row_workers import RowProcesses, RowWorkers
from rayloom.text.tokenizer_files import tokenizer_digest


def prepare(
    data: ConversationData,
    files: Mapping[str, Sequence[RowFile]],
    renderer: Renderer,
    sequence_length_tokens: int,
    seed: int,
    out: Path,
    advance: Callable[[int, int], None] = lambda _rows, _bytes: None,
    *,
    packs_rows: bool = True,
    workers: RowWorkers | None = None,
    sample: RowSample | None = None,
) -> ConversationCounts:
    """Writes token shards to `out/train` and `out/heldout`, the same bytes for the same arguments.

    `files`: the files of each source that fit its pattern, by the dotted path of the source's reference in the train
    spec (`data.sources.0.dataset`). `advance` is told of rows that are dealt with, and of the bytes of files that were
    read for them. `packs_rows`: whether several samples may share a row. If the process is killed, the next call with
    the same arguments goes on behind the last block. `sample`: only so many rows are looked at, and held out.
    Raises InputError with every unusable row by number, or where the length policy forbids it.
    """
    data = sample.scaled(data) if sample else data
    scratch = out.with_name(f".{out.name}.parts")
    counts = ConversationCounts()
    try:
        with BlockResults(data, files, renderer, seed, scratch, workers or RowProcesses(), advance, sample) as results:
            rows = results.read(counts)
            kept = _within_length(rows, data, sequence_length_tokens, counts)
            heldout, train = split_heldout(rows, kept, data, seed, counts)
            digest = tokenizer_digest(renderer.tokenizer)
            facts = shard_facts(len(renderer.tokenizer), digest, sequence_length_tokens)
            train = np.repeat(train, rows.repeats[train])
            for name, part, split in (("train", train, counts.train), ("heldout", heldout, counts.heldout)):
                packed = _packed(rows, part, sequence_length_tokens, seed, packs_rows)
                rows.samples.write_shards(out / name, facts, packed)
                _count(split, len(part), packed, sequence_length_tokens)
    except InputError:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    shutil.rmtree(scratch)
    return counts


def _packed(rows: Rows, part: NDArray[np.int64], length: int, seed: int, packs_rows: bool) -> SampleOrder:
    samples = ranges(rows.first_samples[part], rows.num_samples[part])
    lengths, alone = rows.lengths[samples], np.arange(len(samples))
    together, begins = best_fit_decreasing(lengths, length) if packs_rows else (alone, alone)
    order, begins = shuffled(together, begins, seed)
    placed = samples[order]
    return SampleOrder(rows.first_tokens[placed], lengths[order], rows.num_labels[placed], begins)


def _within_length(rows: Rows, data: ConversationData, limit: int, counts: ConversationCounts) -> NDArray[np.int64]:
    """The rows that stay, those that are too long dropped or shortened as the spec says."""
    every = np.arange(len(rows.longest))
    if not len(every):
        return every
    found = np.percentile(rows.longest, [50, 90, 99, 100], method="higher")
    names = ("median", "p90", "p99", "longest")
    counts.lengths_tokens = dict(zip(names, (int(length) for length in found), strict=True))
    too_long = np.flatnonzero(rows.longest > limit)
    if not len(too_long):
        return every
    share = len(too_long) / len(every)
    named = ", ".join(f"{rows.origin(row)} ({rows.longest[row]})" for row in too_long[:5])
    what = f"{len(too_long)} of {len(every)} rows are longer than sequence_length_tokens ({limit}): {named}"
    longest = int(rows.longest.max())
    if data.length_policy == "error":
        fix = f"Raise sequence_length_tokens to {longest}, set max_row_tokens, or choose a length_policy."
        raise InputError(what, fix=fix)
    if share > data.max_length_policy_share:
        fix = f"Raise sequence_length_tokens to {longest}, or data.max_length_policy_share."
        raise InputError(f"{what}; that is {share:.1%}, over max_length_policy_share", fix=fix)
    if data.length_policy == "drop":
        counts.left_out["longer_than_sequence_length"] = len(too_long)
        return np.delete(every, too_long)
    counts.truncated_rows = len(too_long)
    for row in too_long:
        if not rows.shorten(row, limit):
            fix = "Raise sequence_length_tokens, or drop such rows with length_policy: drop."
            what = f"No trained token is left of {rows.origin(row)} after truncation to {limit} tokens"
            raise InputError(what, fix=fix)
    return every


def split_heldout(
    rows: Rows, kept: NDArray[np.int64], data: ConversationData, seed: int, counts: ConversationCounts
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Held-out rows, chosen by the seed from sources that are not repeated, and the rest without their duplicates."""
    content, num_heldout = rows.contents[kept], data.heldout_rows
    single = np.flatnonzero(rows.repeats[kept] == 1)
    candidates = np.sort(single[np.unique(content[single], return_index=True)[1]])
    if len(candidates) < 2 * num_heldout:
        what = f"heldout_rows is {num_heldout}, but the sources with repeat: 1 have {len(candidates)} different rows"
        raise InputError(what, fix=f"Hold out at most {len(candidates) // 2}, or add rows.")
    picked = np.random.default_rng([seed, len(kept)]).permutation(len(candidates))[:num_heldout]
    heldout = candidates[np.sort(picked)]
    train = np.flatnonzero(~np.isin(content, content[heldout]))
    duplicates = len(kept) - len(heldout) - len(train)
    if duplicates:
        counts.left_out["same_as_a_heldout_row"] = duplicates
    counts.repeated_in_training = len(train) - len(np.unique(content[train]))
    return kept[heldout], kept[train]


def _count(split: SplitCounts, num_rows: int, packed: SampleOrder, length: int) -> None:
    split.rows, split.samples, split.packed_rows = num_rows, len(packed.lengths), len(packed.begins)
    split.tokens, split.trained_tokens = int(packed.lengths.sum()), int(packed.num_labels.sum())
    split.filled_share = round(split.tokens / (split.packed_rows * length), 4)
