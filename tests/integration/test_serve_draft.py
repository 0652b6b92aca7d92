"""Tokens guessed by a small model on the real engine: the answers are the served model's, whatever was guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from support.models import made
from support.service import CAPITAL, CAPITAL_ANSWER, MODEL, Served, free_port, served_by, until, write_job
from transformers import AutoModelForCausalLM

from rayloom.artifacts.store import Artifact, Store

pytestmark = pytest.mark.full
NUM_LAYERS = 20


@pytest.fixture(scope="module")
def drafted(smollm2: Artifact, shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """SmolLM2 with its own lower layers as the model that guesses: right sometimes, and wrong often."""

    def write_lower_layers(folder: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(smollm2.path, dtype=torch.bfloat16)
        model.model.layers = model.model.layers[:NUM_LAYERS]
        model.config.num_hidden_layers = NUM_LAYERS
        model.config.layer_types = None
        model.save_pretrained(folder)

    made(shared_store, "lower-layers", "model", write_lower_layers)
    folder, port = tmp_path_factory.mktemp("draft"), free_port()
    guessing = {"type": "draft_model", "model": "artifact:lower-layers", "num_tokens": 3}
    with served_by(write_job(folder, port, {"speculation": guessing}), port, shared_store) as found:
        yield found


def test_answers_are_the_served_models(drafted: Served) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": CAPITAL, "temperature": 0, "max_tokens": 16}
    answer = drafted.client.chat.completions.create(**asked).choices[0].message.content
    assert str(answer).startswith(CAPITAL_ANSWER)


def test_some_guesses_are_taken_and_some_are_not(drafted: Served) -> None:
    until(lambda: figure(drafted, "num_draft_tokens") > 0)
    assert 0 < figure(drafted, "num_accepted_tokens") < figure(drafted, "num_draft_tokens")


def figure(served: Served, name: str) -> float:
    said = served.running.job.with_suffix(".txt").read_text()
    text = "".join(httpx.get(address).text for address in re.findall(r"http://\S+/metrics", said))
    found = re.findall(rf"^ray_vllm_spec_decode_{name}_total\{{.*\}} (\S+)$", text, re.M)
    return sum(float(value) for value in found)
