"""Whole cleaning jobs on the real Ray Data: what comes out, that it is always the same, and what goes wrong clearly."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.passes import cleaned
from tokenizers import Tokenizer

from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, run
from rayloom.errors import InputError, QualityError
from rayloom.observe.ray_session import connect
from rayloom.text.packed.shards import TokenShards

NOUNS = ["harbour", "river", "boat", "lamp", "street", "garden", "market", "winter", "letter", "bridge", "teacher"]
VERBS = ["crosses", "leaves", "finds", "keeps", "paints", "follows", "remembers", "repairs", "opens", "forgets"]
LINKS = ["and", "that", "with", "because", "while", "after", "before", "although", "until"]


def _document(seed: int, num_words: int = 120) -> str:
    """Prose-like, and different from every other document in almost every run of five words."""
    dice = random.Random(seed)
    words: list[str] = []
    while len(words) < num_words:
        words += ["the", dice.choice(NOUNS), dice.choice(VERBS), "the", f"{dice.choice(NOUNS)}{dice.randrange(999)}"]
        words += [dice.choice(LINKS)]
    return " ".join(words[:num_words]).capitalize() + "."


def _changed(text: str, places: list[int]) -> str:
    words = text.split()
    for place in places:
        words[place] = f"changed{place}"
    return " ".join(words)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three formats with planted duplicates and bad rows; every number below is known."""
    folder = tmp_path_factory.mktemp("sources")
    pages = [_document(n) for n in range(200)]
    # 116 shingles each. One word changed near the edge spoils one shingle: similarity 115/117. Three in the middle
    # spoil fifteen: 101/131, no duplicate.
    pages += [_changed(pages[0], [119]), pages[1].upper(), f"  {pages[2]}\n\n", _changed(pages[3], [30, 60, 90])]
    # A chain: each link changes another edge; the ends differ in two shingles and stay linked through the middle.
    pages += [_changed(pages[4], [0]), _changed(pages[4], [0, 119])]
    rows = [json.dumps({"text": page}) for page in pages]
    rows += [json.dumps({"text": "too short"}), json.dumps({"text": None}), "{broken", json.dumps({"body": "x"})]
    (folder / "pages").mkdir()
    (folder / "pages" / "a.jsonl").write_text("\n".join(rows[:150]) + "\n")
    (folder / "pages" / "b.jsonl").write_text("\n".join(rows[150:]) + "\n")
    (folder / "books").mkdir()
    (folder / "books" / "books.txt").write_text("\n".join(_document(n, 400) for n in range(300, 330)) + "\n")
    (folder / "news").mkdir()
    with (folder / "news" / "news.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["title", "text"])
        writer.writerows([f"Article {n}", _document(n)] for n in range(400, 430))
        writer.writerow(["", _document(5)])  # stands among the pages too
    return folder


JOB = """
kind: clean
name: corpus
sources:
  - {{name: pages, dataset: {sources}/pages, format: {{type: jsonl}}, domain: web}}
  - {{name: books, dataset: {sources}/books, format: {{type: text, documents: line}}, domain: prose}}
  - {{name: news, dataset: {sources}/news, format: {{type: csv, text_columns: [title, text]}}, domain: news}}
rules: {{repetition: null}}
output: {{type: tokens, tokenizer: {{type: train, vocabulary_size: 600}}, heldout_share: 0.1, shard_tokens: 20000}}
max_bad_rows_share: 0.02
"""


def _clean(folder: Path, sources: Path, store: str, **changes: Any) -> Artifact:
    (folder / "clean.yaml").write_text(JOB.format(sources=sources))
    overrides = [f"{path}={json.dumps(value)}" for path, value in changes.items()]
    return run(load_job(folder / "clean.yaml", overrides), Store(str(folder / store), cache=folder / "cache"))[0]


@pytest.fixture(scope="module")
def corpus(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return _clean(tmp_path_factory.mktemp("clean"), sources, "store")


def _lines(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact.path / "rejects" / name).read_text().splitlines()]


def test_every_row_is_accounted_for(corpus: Artifact) -> None:
    numbers = corpus.manifest.metrics
    assert numbers["rows_in"] == 207 + 30 + 31 and numbers["bad_rows"] == 3
    assert numbers["rows_in"] == numbers["documents_kept"] + numbers["documents_dropped"]
    assert numbers["dropped"] == {"exact_duplicate": 3, "near_duplicate": 3, "too_few_words": 1}
    assert numbers["bad"] == {"malformed_json": 1, "missing_column": 1, "null_text": 1}
    assert numbers["domains"]["prose"]["documents"] == 30
    assert json.loads((corpus.path / "corpus.json").read_text())["tokens"] == numbers["tokens"]


def test_duplicates_went_and_say_of_what(corpus: Artifact) -> None:
    found = {
        (row["file"], row["row"]): (row["reason"], row["kept"]["row"]) for row in _lines(corpus, "duplicates.jsonl")
    }
    # Of pages 1 and 201 the shorter text goes; equally long ones keep the first.
    assert found == {
        ("a.jsonl", 1): ("near_duplicate", 51),  # the copy is longer: "changed119"
        ("b.jsonl", 52): ("exact_duplicate", 2),
        ("b.jsonl", 53): ("exact_duplicate", 3),
        ("a.jsonl", 5): ("near_duplicate", 56),
        ("b.jsonl", 55): ("near_duplicate", 56),
        ("news.csv", 31): ("exact_duplicate", 6),
    }
    (reject,) = _lines(corpus, "rules.jsonl")
    assert (reject["file"], reject["row"], reject["reason"], reject["value"]) == ("b.jsonl", 57, "too_few_words", 2)
    assert [(row["row"], row["reason"]) for row in _lines(corpus, "unreadable.jsonl")] == [
        (58, "null_text"), (59, "malformed_json"), (60, "missing_column"),
    ]  # fmt: skip


def test_the_shards_hold_exactly_the_kept_texts(corpus: Artifact, sources: Path) -> None:
    tokenizer = Tokenizer.from_file(str(corpus.path / "tokenizer" / "tokenizer.json"))
    expected = {_document(n) for n in range(200) if n not in (0, 4)} | {_document(n, 400) for n in range(300, 330)}
    expected |= {f"Article {n}\n{_document(n)}" for n in range(400, 430)}
    expected |= {_changed(_document(0), [119]), _changed(_document(3), [30, 60, 90]), _changed(_document(4), [0, 119])}
    texts = {split: _texts(corpus.path / split, tokenizer) for split in ("train", "heldout")}
    assert sorted(texts["train"] + texts["heldout"]) == sorted(expected)
    assert len(texts["heldout"]) == pytest.approx(0.1 * len(expected), abs=12)
    assert len(list((corpus.path / "train").glob("*.tokens.npy"))) > 1
    numbers = corpus.manifest.metrics
    assert sum(len(TokenShards(corpus.path / split, 1)) for split in texts) == numbers["tokens"]


def _texts(folder: Path, tokenizer: Tokenizer) -> list[str]:
    shards = TokenShards(folder, 1)
    ids = [int(shards.row(n).tokens[0]) for n in range(len(shards))]
    documents: list[list[int]] = [[]]
    for token in ids:
        if token == 0:
            documents.append([])
        else:
            documents[-1].append(token)
    assert documents[-1] == []
    return [tokenizer.decode(document) for document in documents[:-1]]


def test_rows_to_read_and_report(corpus: Artifact) -> None:
    from rayloom.data.report import sections

    rows = json.loads((corpus.path / "samples.json").read_text())
    assert {row["reason"] for row in rows} == {"exact_duplicate", "kept", "near_duplicate", "too_few_words"}
    titles = [section.title for section in sections(corpus)]
    assert titles[:2] == ["Rows", "Dropped by reason"] and "To read: near_duplicate" in titles


def test_the_result_is_the_same_byte_for_byte_whatever_runs_it(
    corpus: Artifact, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_core = replace(connect(), num_cores=1)
    monkeypatch.setattr("rayloom.data.run.connect", lambda: one_core)
    monkeypatch.setattr("rayloom.data.steps.MIN_BUCKETS", 7)
    # As in jobs of terabytes: records pass through several levels of cutting tasks, clusters are found in rounds, and a
    # group has several chunks.
    monkeypatch.setattr("rayloom.data.exchange.levels.MAX_PARTS", 6)
    monkeypatch.setattr("rayloom.data.exchange.levels.MAX_JOINED_BYTES", 50_000)
    monkeypatch.setattr("rayloom.data.exchange.levels.MIN_PART_BYTES", 1 << 20)
    monkeypatch.setattr("rayloom.data.dedup.clusters.EDGES_AT_ONCE", 2)
    monkeypatch.setattr("rayloom.data.sources.chunk_table.LEAST_GROUPS", 2)
    again = _clean(tmp_path, sources, "store", chunk_bytes=65536)
    assert again.manifest.version == corpus.manifest.version
    assert again.manifest.digest == corpus.manifest.digest


def test_an_existing_tokenizer_and_no_deduplication(corpus: Artifact, sources: Path, tmp_path: Path) -> None:
    import torch
    import transformers

    model = tmp_path / "model"
    (model).mkdir()
    for path in (corpus.path / "tokenizer").iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=600, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(model)
    changes: dict[str, Any] = {"output.tokenizer": {"type": "model", "model": str(model)}, "deduplication": None}
    again = _clean(tmp_path, sources, "store", **changes)
    numbers = again.manifest.metrics
    assert numbers["dropped"] == {"too_few_words": 1} and numbers["documents_kept"] == numbers["rows_in"] - 1
    first, second = (TokenShards(artifact.path / "train", 8) for artifact in (corpus, again))
    assert first.tokenizer_digest == second.tokenizer_digest


# -- killed ------------------------------------------------------------------------------------------------------------


def test_killed_and_run_again_it_continues_and_loses_nothing(corpus: Artifact, sources: Path, tmp_path: Path) -> None:
    (tmp_path / "clean.yaml").write_text(JOB.format(sources=sources))
    command = [sys.executable, "-m", "rayloom", "run", str(tmp_path / "clean.yaml"), "--set", "chunk_bytes=65536"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = kept | {"RAYLOOM_STORE": str(tmp_path / "store")}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True) as first:
        _wait_for(lambda: list(tmp_path.glob("store/corpus/*/.work/*/judged/[0-9]*")), first)
        os.killpg(first.pid, signal.SIGKILL)
    work = next(tmp_path.glob("store/corpus/*/.work/*/judged"))
    before = {path: path.stat().st_mtime_ns for path in work.glob("[0-9]*")}
    assert before and not list(Store(str(tmp_path / "store")).versions("corpus"))
    again = _clean(tmp_path, sources, "store", chunk_bytes=65536)
    assert again.manifest.digest == corpus.manifest.digest


def _wait_for(seen: Any, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not seen():
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
        assert time.monotonic() < end, "nothing was left to continue from"
        time.sleep(0.01)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_an_empty_corpus(sources: Path, tmp_path: Path) -> None:
    """Without Ray; with it, test_pipeline.py holds this."""
    job = yaml.safe_load(JOB.format(sources=sources))
    job["rules"]["gopher"] = {"min_words": 5000}
    with pytest.raises(QualityError, match=r"No document is left of 268: 268 too_few_words"):
        cleaned(tmp_path, job)
    assert not list(tmp_path.glob("store*/corpus/*/manifest.json"))


def test_too_many_bad_rows(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"3 of 271 rows cannot be read \(1 malformed_json, 1 missing_column, 1 null"):
        _clean(tmp_path, sources, "store", max_bad_rows_share=0.01)


def test_a_missing_column(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no column body \(news: news\.csv\)\. The file has: title, text"):
        _clean(tmp_path, sources, "store", **{"sources.2.format": {"type": "csv", "text_columns": ["body"]}})


def test_a_pattern_without_files(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No file fits '\*\.parquet'"):
        _clean(tmp_path, sources, "store", **{"sources.0.files": "*.parquet"})


def test_nothing_held_out(sources: Path, tmp_path: Path) -> None:
    job = yaml.safe_load(JOB.format(sources=sources))
    job["output"]["heldout_share"] = 0.000001
    with pytest.raises(QualityError, match="fell into the heldout part"):
        cleaned(tmp_path, job)
