"""Searches for speed with the real engine and the real training: figures, named failures, and nothing left behind."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.models import made, write_model
from support.searches_on_rows import search_file, store_with_corpus
from support.service import free_port
from support.tokenizers import chatml

from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, resolve, run
from rayloom.serve.lifecycle import service_processes
from rayloom.specs.search.speed import SERVING_METRICS, TIMED_METRICS
from rayloom.specs.serve import ServeSpec
from rayloom.tune.report import sections
from rayloom.tune.results import read_trials

ENGINE = {"max_model_length_tokens": 256, "max_sequences": 4, "kv_cache": {"size_bytes": 1 << 26}}
REFUSED_BY_VLLM = {"quantization": "no-such-thing"}


def tiny(store: Store) -> Artifact:
    """A decoder with heads of a size that vLLM's CPU kernels have."""

    sizes = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512}
    write = partial(write_model, vocab_size=len(chatml()), **sizes)  # any token that it writes is a text
    return made(store, "tiny", "model", write)


@pytest.mark.parametrize(
    "refused",
    [[], pytest.param([REFUSED_BY_VLLM], marks=pytest.mark.full)],
    ids=["alone", "after one that vLLM refuses"],
)
def test_a_service_takes_the_engine_that_a_search_found(refused: list[dict[str, str]], tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    tiny(store)
    served = {"name": "m", "model": "artifact:tiny"}
    service: dict[str, Any] = {
        "kind": "serve",
        "name": "s",
        "port": free_port(),
        "models": [served | {"engine": ENGINE}],
    }
    search = {
        "kind": "tune", "name": "fast", "serve": service, "searcher": {"type": "grid"},
        "load": {"clients": 4, "seconds": 1, "new_tokens": 8, "first_token_seconds": 60},
        "space": {"models.0.engine.extra": {"type": "choice", "values": [*refused, {}]}},
        "objectives": [{"metric": "goodput_tokens_per_second"}],
    }  # fmt: skip
    (tmp_path / "fast.yaml").write_text(json.dumps(search))
    artifact, is_new = run(load_job(tmp_path / "fast.yaml"), store)
    assert is_new
    assert service_processes() == []
    *failed, measured = read_trials(artifact)
    assert [trial.outcome for trial in failed] == ["failed"] * len(refused)
    assert all("did not start" in trial.reason for trial in failed)
    assert measured.outcome == "finished"
    assert set(measured.metrics) == set(SERVING_METRICS)
    assert measured.metrics["goodput_share"] == 1
    assert measured.metrics["tokens_per_second"] > 0
    assert "What mattered" not in [section.title for section in sections(artifact)]
    again, is_new = run(load_job(tmp_path / "fast.yaml"), store)
    assert (again.id, is_new) == (artifact.id, False)
    (tmp_path / "auto.yaml").write_text(json.dumps(service | {"models": [served]}))
    for file in (tmp_path / "auto.yaml", artifact.path / "best.yaml"):
        taken = resolve(load_job(file), store).spec
        assert isinstance(taken, ServeSpec)
        assert taken.models[0].engine.model_dump(exclude_defaults=True) == ENGINE


@pytest.mark.full
def test_micro_batches_are_timed_and_another_training_is_found_out(tmp_path: Path) -> None:
    store = store_with_corpus(tmp_path / "store")
    space = {
        "learning_rate": {"type": "choice", "values": [1e-3, 0.3]},
        "micro_batch_sequences": {"type": "choice", "values": [1, 2]},
    }
    changes: dict[str, Any] = {
        "timed_steps": {"warm_up_steps": 1, "steps": 3},
        "objectives": [{"metric": "tokens_per_second"}],
    }
    file = search_file(tmp_path, space=space, searcher={"type": "grid"}, budget={}, **changes)
    artifact, _ = run(load_job(file), store)
    first, second, *others = read_trials(artifact)
    assert [first.outcome, second.outcome, *(other.outcome for other in others)] == ["finished"] * 2 + ["failed"] * 2
    assert set(first.metrics) <= set(TIMED_METRICS)
    assert first.metrics["train_loss"] == pytest.approx(second.metrics["train_loss"], rel=1e-4)
    assert "these values change what is learned" in others[0].reason
    assert artifact.manifest.content == "report"
    assert not list(artifact.path.glob("**/*.safetensors"))
