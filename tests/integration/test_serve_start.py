"""A replica's start with the real engine: its phases are told, and what it compiled is there at the next start. Chats
are rendered by the job's own template."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.models import made, write_model
from support.service import MODEL, Running, free_port, running, write_job
from support.tokenizers import chatml

from rayloom.artifacts.store import Store

pytestmark = pytest.mark.full

PHASES = ("process", "imports", "engine", "graphs", "answer")
TEMPLATE = "{% for message in messages %}{{ message.role }} says: {{ message.content }}\n{% endfor %}"
ASKED = [{"role": "user", "content": "Who are you?"}]


@dataclass(frozen=True)
class Start:
    """What was seen of a service that is stopped again."""

    phases: dict[str, Any]
    """As `rayloom serve status` gives them."""
    said: str
    """What `rayloom run` said."""
    prompt: list[int]
    """Token ids of ASKED."""
    compiled: set[str]
    """The files of compiled code on the node."""


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> list[Start]:
    """Two starts of one service, one after the other."""
    folder, patch = tmp_path_factory.mktemp("starts"), pytest.MonkeyPatch()
    patch.setenv("RAYLOOM_CACHE", str(folder / "cache"))
    store = Store(str(folder / "store"))
    # vLLM's attention on CPUs begins at heads of 32.
    made(store, "tiny", "model", partial(write_model, num_attention_heads=2, num_key_value_heads=1))
    (folder / "own.jinja").write_text(TEMPLATE)
    model = {"model": "artifact:tiny", "chat_template": "./own.jinja"}
    engine = {"compiled": True, "max_model_length_tokens": 64}
    found = []
    for _ in range(2):
        port = free_port()
        with running(write_job(folder, port, engine, model=model), port, store) as service:
            found.append(seen(service, folder / "cache" / "compiled"))
    patch.undo()
    return found


def seen(service: Running, compiled: Path) -> Start:
    (state,) = json.loads(service.command("serve", "status", "--json").stdout)
    asked = {"model": MODEL, "messages": ASKED, "add_generation_prompt": False}
    prompt = httpx.post(f"{service.url}/tokenize", json=asked, timeout=60).json()["tokens"]
    files = {str(file.relative_to(compiled)) for file in compiled.rglob("*") if file.is_file()}
    return Start(state["models"][MODEL][0]["start"], service.said, prompt, files)


def test_every_phase_of_a_start_is_told(starts: list[Start]) -> None:
    for start in starts:
        assert [phase for phase in PHASES if not start.phases[phase] > 0] == []
        assert start.phases["weights"] is not None  # of a tiny model, less than vLLM prints
        assert f"{MODEL} started in" in start.said


def test_what_a_replica_compiled_is_found_at_the_next_start(starts: list[Start]) -> None:
    first, second = starts
    assert [name for name in first.compiled if name.endswith(".so")]
    assert {name for name in second.compiled - first.compiled if name.endswith((".so", ".cpp"))} == set()


def test_chats_are_rendered_by_the_jobs_own_template(starts: list[Start]) -> None:
    for start in starts:
        text = chatml().decode(start.prompt)
        assert "user says: Who are you?" in text
        assert "<|im_start|>" not in text
        assert "prompts differ from those that tiny@" in start.said
