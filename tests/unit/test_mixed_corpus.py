"""A corpus mixed by tokens, from files to shards, without Ray: what is asked for is what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.passes import cleaned

from rayloom.artifacts.store import Artifact
from rayloom.errors import SpecError
from rayloom.text.packed.shards import TokenShards

WORDS = ["harbour", "river", "boat", "lamp", "street", "garden", "market", "winter", "letter", "bridge", "teacher"]
SOURCES = {"wiki": ("encyclopedia", 150), "pages": ("web", 60), "posts": ("web", 40)}


def _write(folder: Path) -> None:
    for number, (name, (_, count)) in enumerate(SOURCES.items()):
        (folder / name).mkdir()
        texts = [
            " ".join(f"{WORDS[(n * 7 + k * k) % 11]}{(number * 71 + n * 13 + k) % 89}" for k in range(20 + n % 9))
            for n in range(count)
        ]
        (folder / name / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def _job(mixture: dict[str, Any], **sources: dict[str, Any]) -> dict[str, Any]:
    listed = [
        {"name": name, "dataset": f"./{name}", "format": {"type": "jsonl"}, "domain": domain} | sources.get(name, {})
        for name, (domain, _) in SOURCES.items()
    ]
    tokenizer = {"type": "train", "vocabulary_size": 400}
    output = {"type": "tokens", "tokenizer": tokenizer, "heldout_share": 0.2, "shard_tokens": 5000, "mixture": mixture}
    rules = {"gopher": None, "repetition": None}
    return {"sources": listed, "rules": rules, "output": output, "deduplication": None}


def _share(artifact: Artifact, domain: str) -> float:
    numbers = artifact.manifest.metrics
    return float(numbers["domains"][domain]["tokens"] / numbers["tokens"])


def test_a_domain_has_at_most_its_share_and_every_document_is_accounted_for(tmp_path: Path) -> None:
    _write(tmp_path)
    found = cleaned(tmp_path, _job({"max_domain_share": {"encyclopedia": 0.4}}))
    numbers = found.manifest.metrics
    assert 0.38 < _share(found, "encyclopedia") <= 0.4
    assert numbers["sources"]["pages"]["documents"] == 60 and numbers["sources"]["posts"]["documents"] == 40
    assert numbers["dropped"]["not_sampled"] == 250 - numbers["documents_kept"]
    rejects = [json.loads(line) for line in (found.path / "rejects" / "mixture.jsonl").read_text().splitlines()]
    assert len(rejects) == numbers["dropped"]["not_sampled"]
    assert {(row["source"], row["reason"]) for row in rejects} == {("wiki", "not_sampled")}
    shards = [TokenShards(found.path / split, 1) for split in ("train", "heldout")]
    assert sum(len(one) for one in shards) == numbers["tokens"]
    assert sum(one.num_documents for one in shards) == numbers["documents_kept"]


def test_the_mixture_does_not_depend_on_how_the_rows_were_cut(tmp_path: Path) -> None:
    _write(tmp_path)
    job = _job({"max_domain_share": {"encyclopedia": 0.4}, "total_tokens": 3000}, posts={"weight": 3})
    first, second = (cleaned(tmp_path, job, size) for size in (1 << 20, 1 << 16))
    assert first.manifest.digest == second.manifest.digest
    assert 2700 < first.manifest.metrics["tokens"] <= 3000


def test_caps_and_weights(tmp_path: Path) -> None:
    _write(tmp_path)
    found = cleaned(tmp_path, _job({}, wiki={"weight": 0.5}, posts={"max_tokens": 900}))
    sources = found.manifest.metrics["sources"]
    assert 65 <= sources["wiki"]["documents"] <= 75 and sources["pages"]["documents"] == 60
    assert 800 < sources["posts"]["tokens"] <= 900


def test_long_documents_are_split_by_tokens_and_counted(tmp_path: Path) -> None:
    _write(tmp_path)
    job = _job({}) | {"output": _job({})["output"] | {"max_document_tokens": 30, "when_longer": "split"}}
    found, whole = cleaned(tmp_path, job), cleaned(tmp_path, _job({}), 1 << 19)
    numbers, before = found.manifest.metrics, whole.manifest.metrics
    more = numbers["documents_kept"] - before["documents_kept"]
    assert more > 0 and numbers["tokens"] == before["tokens"] + more  # one more end-of-text token a piece
    assert numbers["sources"]["wiki"]["bytes"] == before["sources"]["wiki"]["bytes"]
    assert numbers["sources"]["wiki"]["shortened"] > 0 == before["sources"]["wiki"]["shortened"]


def test_another_seed_takes_other_documents_and_held_out_ones_stay_held_out(tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        _write(folder)
        found.append(cleaned(folder, _job({"total_tokens": 3000, "seed": seed})))
    first, second = (np.load(one.path / "train" / "00000.tokens.npy") for one in found)
    assert len(first) != len(second) or (first != second).any()
    assert all(0.1 < one.manifest.metrics["heldout_tokens"] / one.manifest.metrics["tokens"] < 0.35 for one in found)


@pytest.mark.parametrize(
    ("mixture", "said"),
    [
        ({"max_domain_share": {"code": 0.1}}, "no source has the domain code; there are: encyclopedia, web"),
        ({"max_domain_share": {"web": 0.5, "encyclopedia": 0.4}}, "add up to less than 1"),
    ],
)
def test_mixtures_that_cannot_be(tmp_path: Path, mixture: dict[str, Any], said: str) -> None:
    _write(tmp_path)
    with pytest.raises(SpecError, match=said):
        cleaned(tmp_path, _job(mixture))
