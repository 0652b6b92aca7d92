"""`output: tokens`: the kept documents are tokenised, mixed by tokens and packed into shards."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

from rayloom.artifacts.build import Build
from rayloom.data import audit
from rayloom.data.corpus import document_selection, sharding, tokenize_pass
from rayloom.data.corpus.document_selection import SelectingPass
from rayloom.data.corpus.encoding import encoder_of
from rayloom.data.corpus.tokenize_pass import SPLITS, TokenisingPass
from rayloom.data.corpus.tokenizer_folder import copy_tokenizer
from rayloom.data.kept_documents import JudgedCorpus
from rayloom.data.passes import Passes, TaskCounts
from rayloom.specs.cleaning.output import TrainTokenizer
from rayloom.text.packed.shards import save_index, shard_facts
from rayloom.text.tokenizer_digest import tokenizer_digest


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
        plans = sharding.planned(folder, given.chunks, split, given.output.shard_tokens)
        write = functools.partial(_write_shard, folder, target, plans, dtype)
        passes.each(f"packing {split}", range(len(plans)), write)
        save_index(target, facts | {"has_rows": False, "shards": [plan.facts for plan in plans]})


def _write_shard(
    folder: Path, target: Path, plans: list[sharding.ShardPlan], dtype: Any, number: int
) -> dict[str, Any]:
    sharding.write_shard(folder, target, plans[number], dtype)
    return {}
