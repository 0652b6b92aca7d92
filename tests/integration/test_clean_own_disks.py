"""Cleaning on nodes that share a bucket and no disk: a real S3 server, counted, and caches that go with their nodes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.counted_bucket import CountedBucket, counted_bucket
from support.fleet_jobs import write_texts
from support.passes import KilledError, cleaned
from support.service import free_port

from rayloom.artifacts import lock
from rayloom.artifacts.store import Artifact, Store
from rayloom.data.exchange import work_files

TOKENS = {
    "output": {"type": "tokens", "tokenizer": {"type": "train", "vocabulary_size": 400}, "heldout_share": 0.2,
               "shard_tokens": 2000, "mixture": {"total_tokens": 5000}},
}  # fmt: skip
ROWS = {"output": {"type": "rows", "validation_share": 0.1, "test_share": 0.1, "max_label_ratio": 1.5}}
TOKEN_PASSES = ("judged", "duplicates", "tokenizer", "tokens", "mixture", "selected", "packed-train", "packed-heldout")
ROW_PASSES = ("judged", "duplicates", "labels", "parts", "rows")


def job(output: dict[str, Any]) -> dict[str, Any]:
    columns = {"type": "jsonl", "label_column": "label"} if output["output"]["type"] == "rows" else {"type": "jsonl"}
    source = {"name": "pages", "dataset": "./texts", "format": columns, "domain": "web"}
    evaluation = {"name": "quiz", "dataset": "./quiz", "format": {"type": "jsonl"}}
    rules = {"gopher": None, "repetition": None}
    return {"sources": [source], "rules": rules, "max_bad_rows_share": 0.1, **output,
            "decontamination": {"against": [evaluation], "ngram_words": 8, "min_words": 5}}  # fmt: skip


def in_small_chunks(folder: Path, output: dict[str, Any], **given: Any) -> Artifact:
    """The artifact of the job without Ray, from chunks smaller than a job file may ask for."""
    return cleaned(folder, job(output), change=lambda spec: spec.model_copy(update={"chunk_bytes": 8192}), **given)


@pytest.fixture(scope="module")
def bucket() -> Iterator[CountedBucket]:
    with counted_bucket(free_port()) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path, bucket: CountedBucket, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.0)
    write_texts(tmp_path / "texts", 100)
    quiz = json.loads((tmp_path / "texts" / "1.jsonl").read_text().splitlines()[3])["text"]
    (tmp_path / "quiz").mkdir()
    (tmp_path / "quiz" / "a.jsonl").write_text(json.dumps({"text": " ".join(quiz.split()[:20])}) + "\n")
    return tmp_path


def on_node(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store as a node with an empty disk sees it."""
    monkeypatch.setenv("RAYLOOM_CACHE", str(folder / name))
    Store("s3://bucket").filesystem.clear_instance_cache()
    work_files._make_folder.cache_clear()
    return Store(f"s3://bucket/{folder.name}")


@pytest.mark.parametrize(
    ("output", "names"),
    [
        pytest.param(TOKENS, ("duplicates", "packed-train"), id="two passes"),
        pytest.param(TOKENS, TOKEN_PASSES, id="tokens", marks=pytest.mark.full),
        pytest.param(ROWS, ROW_PASSES, id="rows", marks=pytest.mark.full),
    ],
)
def test_killed_in_each_pass_it_goes_on_on_other_nodes_and_ends_the_same(
    folder: Path, output: dict[str, Any], names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = in_small_chunks(folder, output)
    assert {"exact_duplicates", "near_duplicates", "clusters"} <= expected.manifest.metrics["duplicates"].keys()
    assert expected.manifest.metrics["evaluation_sets"]["quiz"]["rows_hit"] == 1
    finished: list[str] = []
    for name in names:
        store, made = on_node(folder, f"node-{name}", monkeypatch), []
        with pytest.raises(KilledError):
            in_small_chunks(folder, output, store=store, dies_in=name, made=made)
        assert not set(made) & set(finished), "what was finished was not done again"
        finished += [one for one in made if one != name]
        shutil.rmtree(folder / f"node-{name}")
    store = on_node(folder, "last", monkeypatch)
    found = in_small_chunks(folder, output, store=store)
    assert found.manifest.digest == expected.manifest.digest
    assert found.manifest.metrics == expected.manifest.metrics
    there = Store(store.uri, cache=folder / "reader").open(found.manifest)
    for file in expected.manifest.files:
        assert (there.path / file.path).read_bytes() == (expected.path / file.path).read_bytes()
    assert not [name for name in store.filesystem.find(store.root) if "/.work/" in name]
    sources = [m for m in store.manifests() if m.name != "n"]
    assert sources and not [m for m in sources if (folder / "last" / "artifacts" / m.digest).exists()], (
        "no node fetches the sources: tasks read them where they are"
    )


def test_requests_grow_with_the_text(folder: Path, bucket: CountedBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """At ten times the text there are at most ten times the requests, in chunks of one size."""
    counted = []
    for count in (40, 400):
        shutil.rmtree(folder / "texts")
        write_texts(folder / "texts", count)
        before = bucket.counts()
        in_small_chunks(folder, TOKENS, store=on_node(folder, f"node-{count}", monkeypatch))
        after = bucket.counts()
        counted.append(sum(after[name] - before.get(name, 0) for name in after if not name.startswith("bytes")))
    assert counted[1] <= 10 * counted[0]
