"""`output: tokens`: tokenises the kept documents, mixes them by tokens and packs them into shards.

The file also has the writing of shards and the copy of an existing tokenizer.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
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
from rayloom.data.kept_documents import JudgedCorpus
from rayloom.data.passes import Passes, TaskCounts
from rayloom.errors import InputError
from rayloom.specs.cleaning.output import TrainTokenizer
from rayloom.text.packed.shards import save_index, save_shard, shard_facts
from rayloom.text.tokenizer_files import copy_files, tokenizer_digest


def make(judged: JudgedCorpus, build: Build, passes: Passes) -> dict[str, Any]:
    """Writes the corpus into the artifact; returns all counts about it."""
    given = TokenisingPass(judged)
    every = range(len(judged.chunks))
    _prepare_tokenizer(given, build, passes)
    work = functools.partial(tokenize_pass.tokenise, given)
    records = passes.once("tokens", lambda: passes.each("tokenising", every, work))
    folders = [judged.scratch.folder("judged"), judged.scratch.folder("tokens")]
    counts = audit.added(judged.tally, records)
    if document_selection.is_wanted(judged.spec):
        records = _mixed(given, passes)
        counts = audit.added(judged.tally, records)
        folders.append(judged.scratch.folder("selected"))
    audit.check_both_splits(judged.spec, {s: sum(record["documents"][s] for record in records) for s in SPLITS})
    _write_shards(given, folders[-1], build, passes)
    return audit.publish(judged, build.directory, folders, counts)


def _prepare_tokenizer(given: TokenisingPass, build: Build, passes: Passes) -> None:
    wanted = given.output.tokenizer
    if not isinstance(wanted, TrainTokenizer):
        model = build.parents["output.tokenizer.model"].path
        copy_tokenizer(model, given.tokenizer_folder, wanted.new_terms)
        return

    def work() -> list[TaskCounts]:
        choose = functools.partial(tokenize_pass.sample, given, sample_documents=wanted.sample_documents)
        passes.each("sampling for the tokenizer", range(len(given.chunks)), choose)
        size = wanted.vocabulary_size
        return passes.each("training the tokenizer", [0], lambda _: tokenize_pass.train_tokenizer(given, size))

    passes.once("tokenizer", work)


def _mixed(given: TokenisingPass, passes: Passes) -> list[TaskCounts]:
    selection = SelectingPass(given, given.judged.num_buckets, encoder_of(given.tokenizer_folder).dtype)
    found = passes.once(
        "mixture", lambda: [{"below": cut.below} for cut in document_selection.source_cuts(selection, passes.each)]
    )
    select = functools.partial(document_selection.select, selection, [record["below"] for record in found])
    return passes.once("selected", lambda: passes.each("selecting", range(len(given.chunks)), select))


def _write_shards(given: TokenisingPass, folder: Path, build: Build, passes: Passes) -> None:
    import transformers

    tokenizer_folder = build.directory / "tokenizer"
    shutil.copytree(given.tokenizer_folder, tokenizer_folder, dirs_exist_ok=True)
    dtype = encoder_of(tokenizer_folder).dtype
    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    facts = shard_facts(len(tokenizer), tokenizer_digest(tokenizer), None)
    for split in SPLITS:
        target = build.directory / split
        target.mkdir(exist_ok=True)
        plans = planned(folder, given.chunks, split, given.output.shard_tokens)
        write = functools.partial(_write_shard, folder, target, plans, dtype)
        passes.each(f"packing {split}", range(len(plans)), write)
        save_index(target, facts | {"has_rows": False, "shards": [plan.facts for plan in plans]})


def _write_shard(folder: Path, target: Path, plans: list[ShardPlan], dtype: Any, number: int) -> dict[str, Any]:
    write_shard(folder, target, plans[number], dtype)
    return {}


# Shards of the corpus, put together from the chunks' tokens, cut between documents and written in parallel.


@dataclass(frozen=True)
class Piece:
    """Consecutive documents of one chunk."""

    chunk: str
    first_document: int
    num_documents: int
    first_token: int
    num_tokens: int


@dataclass(frozen=True)
class ShardPlan:
    """The pieces of chunks that make up one shard."""

    split: Split
    number: int
    pieces: tuple[Piece, ...]

    @property
    def facts(self) -> dict[str, int]:
        tokens = sum(piece.num_tokens for piece in self.pieces)
        return {"num_tokens": tokens, "num_documents": sum(piece.num_documents for piece in self.pieces)}


def planned(folder: Path, chunks: Sequence[str], split: Split, shard_tokens: int) -> list[ShardPlan]:
    """Shards in the order of the documents; each ends with the document that brings it to `shard_tokens`."""
    plans: list[ShardPlan] = []
    pieces: list[Piece] = []
    filled = 0
    for chunk in chunks:
        ends = np.cumsum(_sizes(folder, chunk, split))
        begin = 0
        while begin < len(ends):
            base = int(ends[begin - 1]) if begin else 0
            # The first document at whose end the shard has all its tokens.
            last = min(int(np.searchsorted(ends, base + shard_tokens - filled)), len(ends) - 1)
            tokens = int(ends[last]) - base
            pieces.append(Piece(chunk, begin, last + 1 - begin, base, tokens))
            filled += tokens
            begin = last + 1
            if filled >= shard_tokens:
                plans.append(ShardPlan(split, len(plans), tuple(pieces)))
                pieces, filled = [], 0
    return [*plans, ShardPlan(split, len(plans), tuple(pieces))] if pieces else plans


def write_shard(folder: Path, target: Path, plan: ShardPlan, dtype: Any) -> None:
    """Writes one shard from the chunks' files."""
    tokens = [_tokens(folder, piece, plan.split, dtype) for piece in plan.pieces]
    sizes = [_sizes(folder, p.chunk, plan.split)[p.first_document :][: p.num_documents] for p in plan.pieces]
    starts = np.append(0, np.cumsum(np.concatenate(sizes))[:-1])
    save_shard(target, plan.number, np.concatenate(tokens), starts.astype(np.int64))


def _sizes(folder: Path, chunk: str, split: Split) -> NDArray[np.int64]:
    return np.fromfile(folder / f"{chunk}.{split}.sizes", np.int64)


def _tokens(folder: Path, piece: Piece, split: Split, dtype: Any) -> NDArray[Any]:
    kind = np.dtype(dtype)
    path = folder / f"{piece.chunk}.{split}.tokens"
    return np.fromfile(path, kind, count=piece.num_tokens, offset=piece.first_token * kind.itemsize)


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
