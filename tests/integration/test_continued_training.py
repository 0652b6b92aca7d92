"""Training on from a base: general text mixed in by tokens, both domains measured, and new terms in the vocabulary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from support.training_jobs import LENGTH, ONE, small_job, small_spec, write_rows
from test_train_loop import events, quiet
from transformers import AutoModelForCausalLM, AutoTokenizer

from rayloom.data.corpus.token_output import copy_tokenizer
from rayloom.errors import InputError
from rayloom.text import tokenizer_files
from rayloom.text.packed.shards import ShardWriter, TokenShards
from rayloom.text.tokenizer_files import tokenizer_digest
from rayloom.train.job import TrainJob
from rayloom.train.loop import loop
from rayloom.train.loop.batch_feed import RunRows
from rayloom.train.objectives.objective import NextToken
from rayloom.train.prepare import job_of, row_shares
from rayloom.train.publish import _headline, summarize

CONTINUED: dict[str, Any] = {"architecture": None, "base": "artifact:base", "num_steps": 40}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that knows something, with its corpus beside it."""
    folder = tmp_path_factory.mktemp("base")
    loop.train(small_job(folder, num_steps=40), ONE, quiet)
    return folder


def corpus(folder: Path, tokenizer: Path, seed: int = 7) -> Path:
    copy_tokenizer(tokenizer, folder / "tokenizer")
    digest = tokenizer_digest(AutoTokenizer.from_pretrained(tokenizer))
    write_rows(folder / "train", 80, seed=seed, digest=digest)
    write_rows(folder / "heldout", 8, seed=seed + 1, digest=digest)
    return folder


def prepared(tmp_path: Path, base: Path, **changes: Any) -> TrainJob:
    parents: dict[str, Any] = {
        "base": SimpleNamespace(path=base / "out"),
        "data.corpus": SimpleNamespace(path=corpus(tmp_path / "domain", base / "out")),
        "replay.corpus": SimpleNamespace(path=corpus(tmp_path / "general", base / "out", seed=21)),
    }
    spec = small_spec(**(CONTINUED | {"replay": {"corpus": "artifact:general", "share": 0.2}} | changes))
    (tmp_path / "work").mkdir()
    return job_of(spec, parents, tmp_path / "work", tmp_path / "out")


def test_both_domains_are_trained_and_measured(tmp_path: Path, base: Path) -> None:
    job = prepared(tmp_path, base)
    assert job.shares == pytest.approx((0.8, 0.2), abs=0.01)
    loop.train(job, ONE, quiet)
    assert [e["name"] for e in events(tmp_path, "heldout")] == ["domain", "general"] * 2
    found = summarize(events(tmp_path, "step") + events(tmp_path, "heldout") + events(tmp_path, "finished"))
    assert set(found["heldout"]) == {"domain", "general"}
    assert "domain perplexity" in _headline(found)
    assert "general perplexity" in _headline(found)


def test_epochs_are_those_of_the_domain(tmp_path: Path, base: Path) -> None:
    job = prepared(tmp_path, base, num_steps=None, num_epochs=2)
    domain = len(TokenShards(tmp_path / "domain" / "train", LENGTH))
    assert job.num_rows == pytest.approx(2 * domain / 0.8, abs=2)


def test_shares_are_of_tokens_where_rows_are_not_full(tmp_path: Path) -> None:
    full = write_rows(tmp_path / "full", 60, seed=1)
    writer = ShardWriter(tmp_path / "half", 67, "made-up", sequence_length_tokens=LENGTH)
    for _ in range(50):
        writer.start_row()
        writer.add(np.arange(LENGTH // 2))
    writer.close()
    shards = [TokenShards(tmp_path / "half", LENGTH), TokenShards(full, LENGTH)]
    shares = row_shares((0.75, 0.25), shards)
    rows = RunRows(NextToken(LENGTH), shards, shares, 0, 1400, 1400)
    tokens = [0, 0]
    for source, row in rows.of_step(0):
        tokens[source] += len(shards[source].row(row).tokens)
    assert tokens[1] / sum(tokens) == pytest.approx(0.25, abs=0.01)


def test_replay_of_another_tokenizer_is_refused(tmp_path: Path, base: Path) -> None:
    job = prepared(tmp_path, base)
    write_rows(tmp_path / "foreign" / "train", 20, seed=3)
    write_rows(tmp_path / "foreign" / "heldout", 8, seed=4)
    parents: dict[str, Any] = {
        "base": SimpleNamespace(path=base / "out"),
        "data.corpus": SimpleNamespace(path=tmp_path / "domain"),
        "replay.corpus": SimpleNamespace(path=tmp_path / "foreign"),
    }
    with pytest.raises(InputError, match=r"another tokenizer than the model's .*foreign"):
        job_of(job.spec, parents, tmp_path / "work", tmp_path / "out")


def test_replay_needs_something_to_keep() -> None:
    with pytest.raises(ValidationError, match="replay keeps what a base has learned"):
        small_spec(replay={"corpus": "artifact:general"})


TEXTS = ["the heart muscle is inflamed", "myocarditis is an inflammation of the heart muscle", "the cat sat"] * 20


def test_new_terms_are_one_token_each_and_come_back(tmp_path: Path) -> None:
    tokenizer_files.save(tokenizer_files.train(iter(TEXTS), 300), tmp_path / "model")
    copy_tokenizer(tmp_path / "model", tmp_path / "corpus", ["myocarditis", "angina"])
    old, new = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("model", "corpus"))
    text = "acute angina, then myocarditis; anginal myocarditis"
    ids = new.encode(text)
    assert new.decode(ids) == old.decode(old.encode(text)) == text
    assert [ids.count(new.convert_tokens_to_ids(term)) for term in ("angina", "myocarditis")] == [1, 2]
    assert new.encode("the cat sat") == old.encode("the cat sat")


def test_a_corpus_with_new_terms_extends_its_base(tmp_path: Path, base: Path) -> None:
    """The term is one that the base writes with two pieces; its embedding is learned from there on."""
    copy_tokenizer(base / "out", tmp_path / "corpus" / "tokenizer", ["w5x"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "corpus" / "tokenizer")
    digest = tokenizer_digest(tokenizer)
    for name, count in (("train", 60), ("heldout", 8)):
        write_rows(tmp_path / "corpus" / name, count, seed=count, digest=digest)
    parents: dict[str, Any] = {
        "base": SimpleNamespace(path=base / "out"),
        "data.corpus": SimpleNamespace(path=tmp_path / "corpus"),
    }
    (tmp_path / "work").mkdir()
    spec = small_spec(**(CONTINUED | {"num_steps": 2}))
    job = job_of(spec, parents, tmp_path / "work", tmp_path / "out")
    assert job.tokenizer == tmp_path / "corpus" / "tokenizer"
    loop.train(job, ONE, quiet)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "out")) == len(tokenizer)
    with pytest.raises(InputError, match="adapter trains no embeddings"):
        (tmp_path / "lora").mkdir()
        lora = small_spec(**(CONTINUED | {"num_steps": 2, "adapter": {"type": "lora", "rank": 2}}))
        loop.train(replace(job, spec=lora, work=tmp_path / "lora"), ONE, quiet)
