"""`output: tokens`: tokenises the kept documents, mixes them by tokens and packs them into shards.

The file also has the writing of shards and the copy of an existing tokenizer.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from rayloom.artifacts.build import Build
from rayloom.data import audit
from rayloom.data.corpus import document_selection, tokenize_pass
from rayloom.data.corpus.document_selection import SelectingPass
from rayloom.data.corpus.encoding import encoder_of
from rayloom.data.corpus.tokenize_pass import SPLITS, Split, TokenisingPass
from rayloom.data.exchange.result_files import ResultFiles
from rayloom.data.exchange.work_files import array_of
from rayloom.data.kept_documents import JudgedCorpus, group_records
from rayloom.data.passes import Passes, TaskCounts, summed
from rayloom.errors import InputError
from rayloom.specs.cleaning.output import TrainTokenizer
from rayloom.text.packed.shards import save_index, save_shard, shard_facts
from rayloom.text.tokenizer_files import copy_files, tokenizer_digest


def make(judged: JudgedCorpus, build: Build, passes: Passes) -> TaskCounts:
    """Writes the corpus into the artifact; returns all counts about it, and as `stored` the files in the bucket."""
    given = TokenisingPass(judged)
    _prepare_tokenizer(given, build, passes)
    tokenise = functools.partial(tokenize_pass.tokenise, given)
    record = passes.once("tokens", lambda: group_records(judged.each(passes, "tokenising", tokenise)))
    written = {"judged": judged.judged_bytes, "tokenised": {"rejects": record["rejects_bytes"]}}
    counts = audit.added(judged.tally, [record])
    folder = "tokens"
    if document_selection.is_wanted(judged.spec):
        record = _mixed(given, passes)
        counts = audit.added(judged.tally, [record])
        written["selected"] = {"rejects": record["rejects_bytes"]}
        folder = "selected"
    audit.check_both_splits(judged.spec, record["documents"])
    stored = _write_shards(given, folder, record["chunks"], build, passes)
    return audit.publish(judged, build.directory, passes, written, counts, stored)


def _prepare_tokenizer(given: TokenisingPass, build: Build, passes: Passes) -> None:
    wanted, judged = given.output.tokenizer, given.judged
    if not isinstance(wanted, TrainTokenizer):
        model = build.parents["output.tokenizer.model"].path

        def copy() -> TaskCounts:
            with tempfile.TemporaryDirectory(prefix="rayloom-") as folder:
                copy_tokenizer(model, Path(folder), wanted.new_terms)
                given.work.put_folder("tokenizer", Path(folder))
            return {}

        passes.once("tokenizer", copy)
        return

    def work() -> TaskCounts:
        choose = functools.partial(tokenize_pass.sample, given, wanted.sample_documents)
        texts = judged.exchanged(passes, "sampling for the tokenizer", choose, "sample", 1)
        train = functools.partial(tokenize_pass.train_tokenizer, given, wanted.vocabulary_size)
        return passes.exchange("training the tokenizer", [0], train, reads=[texts])[0][0]

    passes.once("tokenizer", work)


def _mixed(given: TokenisingPass, passes: Passes) -> TaskCounts:
    selection = SelectingPass(given, given.judged.num_buckets, encoder_of(given.tokenizer_folder).dtype)
    found = passes.once(
        "mixture", lambda: {"below": [cut.below for cut in document_selection.source_cuts(selection, passes)]}
    )
    select = functools.partial(document_selection.select, selection, found["below"])
    return passes.once("selected", lambda: group_records(given.judged.each(passes, "selecting", select)))


def _write_shards(
    given: TokenisingPass, folder: str, tokens: list[list[int]], build: Build, passes: Passes
) -> list[dict[str, Any]]:
    """Writes tokenizer, shards and indices; returns the entries of the files that are in the bucket.

    `tokens`: for each chunk, its tokens in each split.
    """
    from rayloom.pretrained import AutoTokenizer

    tokenizer_folder = build.directory / "tokenizer"
    shutil.copytree(given.tokenizer_folder, tokenizer_folder, dirs_exist_ok=True)
    dtype = encoder_of(tokenizer_folder).dtype
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    facts = shard_facts(len(tokenizer), tokenizer_digest(tokenizer), None)
    result, stored = ResultFiles(given.work.copy), []
    for number, split in enumerate(SPLITS):
        packing = PackingPass(given, folder, split, dtype, result)
        totals = [chunk[number] for chunk in tokens]
        pack = functools.partial(_packed, packing, totals, passes)
        # In a local store, a run that begins again removes what was in the artifact's folder.
        record = passes.once(f"packed-{split}", pack) if result.in_bucket else pack()
        (build.directory / split).mkdir(exist_ok=True)
        save_index(build.directory / split, facts | {"has_rows": False, "shards": record["shards"]})
        stored += record["stored"]
    return stored


# Shards of the corpus, put together from the chunks' tokens, cut between documents and written in parallel.


@dataclass(frozen=True)
class PackingPass:
    """Inputs of every task of the pass."""

    tokens: TokenisingPass
    folder: str
    """Of the work files that have the tokens."""
    split: Split
    dtype: Any
    result: ResultFiles

    def sizes(self, chunk: int) -> NDArray[np.int64]:
        return self.tokens_and_sizes(chunk)[1]

    def tokens_and_sizes(self, chunk: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        parts = self.tokens.work.read_parts(f"{self.folder}/{self.tokens.name(chunk)}")
        return array_of(parts[f"{self.split}.tokens"], self.dtype), array_of(parts[f"{self.split}.sizes"], np.int64)


Place = tuple[int, int]
"""A chunk, and a token in it."""


def _packed(given: PackingPass, totals: list[int], passes: Passes) -> TaskCounts:
    shard_tokens = given.tokens.output.shard_tokens

    def plan(_: int) -> TaskCounts:
        return {"bounds": shard_bounds(totals, given.sizes, shard_tokens)}

    bounds = [(chunk, token) for chunk, token in passes.each("planning shards", [0], plan)[0]["bounds"]]

    def write(number: int) -> TaskCounts:
        return write_shard(given, number, bounds[number], bounds[number + 1])

    empty: TaskCounts = {"shards": [], "stored": []}
    return summed([empty, *passes.each(f"packing {given.split}", range(len(bounds) - 1), write)])


def shard_bounds(totals: Sequence[int], sizes_of: Callable[[int], NDArray[np.int64]], shard_tokens: int) -> list[Place]:
    """Where each shard begins, in the order of the documents, and where the last one ends.

    Each ends with the document that brings it to `shard_tokens`. `totals`: tokens of each chunk. The sizes of documents
    are read only for chunks in which a shard ends.
    """
    bounds: list[Place] = [(0, 0)]
    filled = 0
    for chunk, total in enumerate(totals):
        if filled + total < shard_tokens:
            filled += total
            continue
        ends, base = np.cumsum(sizes_of(chunk)), 0
        while (last := int(np.searchsorted(ends, base + shard_tokens - filled))) < len(ends):
            base, filled = int(ends[last]), 0
            bounds.append((chunk, base))
        filled += total - base
    return [*bounds, (len(totals), 0)] if filled else bounds


def write_shard(given: PackingPass, number: int, begin: Place, end: Place) -> TaskCounts:
    """Writes one shard; returns what the index says about it."""
    tokens, sizes = [], []
    for chunk in range(begin[0], end[0] + (end[1] > 0)):
        first, last = begin[1] if chunk == begin[0] else 0, end[1] if chunk == end[0] else None
        its_tokens, its_sizes = given.tokens_and_sizes(chunk)
        ends = np.cumsum(its_sizes)
        tokens.append(its_tokens[first:last])
        sizes.append(its_sizes[(ends > first) & (ends <= (len(its_tokens) if last is None else last))])
    together = np.concatenate(sizes)
    starts = np.append(0, np.cumsum(together)[:-1]).astype(np.int64)

    def save(folder: Path) -> None:
        (folder / given.split).mkdir(exist_ok=True)
        save_shard(folder / given.split, number, np.concatenate(tokens), starts)

    return given.result.write(save) | {"shards": [{"num_tokens": int(together.sum()), "num_documents": len(together)}]}


# The corpus' own copy of an existing model's tokenizer.


def copy_tokenizer(model: Path, target: Path, new_terms: Sequence[str] = ()) -> None:
    """Copies the tokenizer and appends the new terms to its vocabulary.

    Raises InputError if the model has no fast tokenizer with an end-of-text token.
    """
    from rayloom.data.corpus.encoding import end_token

    fix = "Load it with transformers.AutoTokenizer and save it again: that writes tokenizer.json."
    if not (model / "tokenizer.json").exists():
        raise InputError("The model has no fast tokenizer (tokenizer.json)", where=str(model), fix=fix)
    target.mkdir(parents=True, exist_ok=True)
    copy_files(model, target)
    try:
        end_token(target)
    except (OSError, KeyError, ValueError):
        what = "The tokenizer has no end-of-text token, which ends every document of a corpus"
        raise InputError(what, where=str(model), fix="Set eos_token in its tokenizer_config.json.") from None
    if new_terms:
        tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
        # Whole words only: a term inside a longer word keeps its old tokens.
        tokenizer.add_tokens([AddedToken(term, single_word=True, normalized=False) for term in new_terms])
        tokenizer.save(str(target / "tokenizer.json"))
