"""Documents judged by a causal model: each one's own loss, limits by value and by percentile, for each domain."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import tiny_llama
from support.passes import cleaned
from support.tokenizers import chatml

from rayloom.artifacts.store import Artifact
from rayloom.data.likelihood_pass import order_of
from rayloom.score.perplexity import document_losses

WORDS = ["harbour", "river", "boat", "lamp", "street", "garden", "market", "winter", "letter", "bridge", "teacher"]


def test_the_loss_of_a_document_is_its_own_whatever_stands_beside_it() -> None:
    model = tiny_llama().eval()
    dice = np.random.default_rng(0)
    documents = [dice.integers(0, 400, size) for size in (7, 30, 0, 1, 18, 30)]
    found = document_losses(model, documents, 3, micro_batch_sequences=4)
    assert [loss.num_tokens for loss in found] == [7, 30, 0, 1, 18, 30]
    for document, loss in zip(documents, found, strict=True):
        if len(document):
            row = torch.tensor([[3, *document]])
            with torch.no_grad():
                expected = torch.nn.functional.cross_entropy(model(row).logits[0, :-1], row[0, 1:], reduction="sum")
            assert loss.nats == pytest.approx(float(expected), rel=1e-4)
    assert found[2].nats == 0


def test_the_order_is_that_of_losses() -> None:
    nats = np.asarray([0.0, 1.00004, 1.00006, 9.5, 32.0, 99.0])
    order = order_of(nats).tolist()
    assert order == sorted(order) and order[1] < order[2] and order[4] == order[5] < 1 << 64
    assert order_of(np.asarray([1.00001]))[0] == order_of(np.asarray([1.00004]))[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_llama().save_pretrained(folder)
    chatml().save_pretrained(folder)
    return folder


def _clean(folder: Path, model: Path, chunk_bytes: int = 1 << 20, **perplexity: Any) -> Artifact:
    for name, count in (("web", 60), ("prose", 20)):
        (folder / name).mkdir(exist_ok=True)
        texts = [" ".join(WORDS[(n * 7 + k * k * (n % 5)) % 11] for k in range(12)) + f" {n}" for n in range(count)]
        (folder / name / "a.txt").write_text("\n".join(texts))
    text = {"type": "text", "documents": "line"}
    job = {
        "sources": [{"name": n, "dataset": f"./{n}", "format": text, "domain": n} for n in ("web", "prose")],
        "rules": {"gopher": None, "repetition": None},
        "deduplication": None,
        "perplexity": {"model": str(model)} | perplexity,
        "output": {"type": "rows", "validation_share": 0, "test_share": 0},
    }
    return cleaned(folder, job, chunk_bytes)


def _rejects(artifact: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact.path / "rejects" / "perplexity.jsonl").read_text().splitlines()]


def test_percentiles_are_those_of_the_domain(tmp_path: Path, model: Path) -> None:
    limits = {"min_percentile": 10, "max_percentile": 75}
    found = _clean(tmp_path, model, limits=limits, domain_limits={"prose": {"max_percentile": 50}})
    numbers = found.manifest.metrics
    assert numbers["sources"]["web"]["dropped"] == {"perplexity_too_high": 15, "perplexity_too_low": 6}
    assert numbers["sources"]["prose"]["dropped"] == {"perplexity_too_high": 10}
    assert numbers["rows_in"] == numbers["documents_kept"] + numbers["documents_dropped"]
    web = [row for row in _rejects(found) if row["source"] == "web"]
    low = [row["value"] for row in web if row["reason"] == "perplexity_too_low"]
    high = [row["value"] for row in web if row["reason"] == "perplexity_too_high"]
    assert len(low) == 6 and len(high) == 15 and max(low) < min(high)


def test_limits_by_value_and_the_same_result_however_the_text_was_cut(tmp_path: Path, model: Path) -> None:
    (tmp_path / "first").mkdir()
    listed = _rejects(_clean(tmp_path / "first", model, limits={"max_percentile": 5}))
    values = sorted(row["value"] for row in listed)
    place = max(range(20, 60), key=lambda index: values[index + 1] / values[index])  # the widest gap
    middle = math.sqrt(values[place] * values[place + 1])
    first, second = (_clean(tmp_path, model, size, limits={"max_perplexity": middle}) for size in (1 << 20, 1 << 16))
    assert first.manifest.metrics["dropped"] == {"perplexity_too_high": len(values) - place - 1}
    assert first.manifest.digest == second.manifest.digest
