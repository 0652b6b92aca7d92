"""A corpus that grows in steps: what an earlier one has goes out of the new one, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.passes import cleaned

from rayloom.artifacts.store import Artifact
from rayloom.data.dedup.clusters import EDGE, labelled, removed_members

WORDS = ["harbour", "river", "boat", "lamp", "street", "garden", "market", "winter", "letter", "bridge", "teacher"]


def _text(seed: int) -> str:
    words = [f"{WORDS[(seed * 7 + n * n) % 11]}{(seed * 31 + n) % 997}" for n in range(90)]
    return " ".join(words) + f" number {seed}"


def _corpus(folder: Path, name: str, texts: list[str], **changes: Any) -> Artifact:
    (folder / name).mkdir()
    for part in (0, 1):
        lines = [json.dumps({"text": text}) + "\n" for text in texts[part::2]]
        (folder / name / f"{part}.jsonl").write_text("".join(lines))
    source = {"name": name, "dataset": f"./{name}", "format": {"type": "jsonl"}, "domain": "web"}
    tokenizer = {"type": "train", "vocabulary_size": 400}
    output = {"type": "tokens", "tokenizer": tokenizer, "heldout_share": 0.3, "shard_tokens": 4000}
    job = {"name": name, "sources": [source], "rules": {"gopher": None, "repetition": None}, "output": output}
    return cleaned(folder, job | changes)


def _against(*names: str, **changes: Any) -> dict[str, Any]:
    return {"deduplication": {"against": [f"artifact:{name}" for name in names]} | changes}


def test_what_an_earlier_corpus_has_goes_and_says_of_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayloom.data.dedup.earlier_corpora.TOKENS_AT_ONCE", 1500)  # several pieces a shard
    _corpus(tmp_path, "first", [_text(n) for n in range(40)])
    new = [_text(n) for n in range(100, 130)]
    near = _text(7) + " and a few more words at the end"
    texts = [*new, _text(3).upper(), near, new[0] + " end"]
    found = _corpus(tmp_path, "second", texts, **_against("first"))
    numbers = found.manifest.metrics
    assert numbers["documents_kept"] == 30
    assert numbers["dropped"] == {"near_duplicate": 2, "exact_duplicate": 1}
    assert numbers["duplicates"]["earlier_documents"] == 40
    assert numbers["duplicates"]["duplicates_of_earlier"] == 2
    rejects = [json.loads(line) for line in (found.path / "rejects" / "duplicates.jsonl").read_text().splitlines()]
    sources = [row["kept"]["source"].partition("@")[0] for row in rejects]
    assert sorted(sources) == ["first", "first", "second"]
    of_earlier = next(row for row in rejects if row["reason"] == "exact_duplicate")
    assert of_earlier["kept"]["file"].startswith(("train/", "heldout/")) and of_earlier["kept"]["row"] >= 1
    assert "deduplication.against.0" in {parent.field for parent in found.manifest.parents}


def test_the_place_that_is_named_is_that_of_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers import Tokenizer

    from rayloom.text.packed.shards import TokenShards

    monkeypatch.setattr("rayloom.data.dedup.earlier_corpora.TOKENS_AT_ONCE", 1500)
    first = _corpus(tmp_path, "first", [_text(n) for n in range(40)])
    found = _corpus(tmp_path, "second", [_text(n) for n in range(100, 120)] + [_text(23)], **_against("first"))
    (reject,) = [json.loads(line) for line in (found.path / "rejects" / "duplicates.jsonl").read_text().splitlines()]
    split, _, shard = reject["kept"]["file"].partition("/")
    starts = np.load(first.path / split / f"{shard}.documents.npy")
    tokens = np.load(first.path / split / f"{shard}.tokens.npy")
    ends = [*starts[1:], len(tokens)]
    row = reject["kept"]["row"] - 1
    ids = tokens[starts[row] : ends[row] - 1].tolist()
    assert Tokenizer.from_file(str(first.path / "tokenizer" / "tokenizer.json")).decode(ids) == _text(23)
    assert len(TokenShards(first.path / split, 1)) >= len(tokens)


def test_two_earlier_corpora_that_share_documents_and_no_near_duplicates(tmp_path: Path) -> None:
    _corpus(tmp_path, "first", [_text(n) for n in range(40)])
    _corpus(tmp_path, "second", [_text(n) for n in range(20, 60)])
    texts = [_text(n) for n in (10, 30, 50, *range(100, 120))]
    found = _corpus(tmp_path, "third", texts, **_against("first", "second", near_duplicates=False))
    numbers = found.manifest.metrics
    assert numbers["documents_kept"] == 20 and numbers["dropped"] == {"exact_duplicate": 3}


def test_an_earlier_document_stays_though_a_new_one_is_longer() -> None:
    edges = np.zeros(2, EDGE)
    edges["first"], edges["second"] = [1, 5], [1000, 1000]
    edges["first_characters"], edges["second_characters"] = [90, 70], [10, 10]
    gone = removed_members(labelled(edges), first_earlier_id=1000)
    assert gone["id"].tolist() == [1, 5] and gone["kept"].tolist() == [1000, 1000]
    both_earlier = removed_members(labelled(edges), first_earlier_id=5)
    assert both_earlier["id"].tolist() == [1] and both_earlier["kept"].tolist() == [5]
