"""A replica's start with the real engine: its phases are told, and what it compiled is there at the next start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.models import made, write_model
from support.service import MODEL, free_port, running, write_job

from rayloom.artifacts.store import Store

pytestmark = pytest.mark.full

PHASES = ("process", "imports", "engine", "weights", "graphs", "compiling", "answer")


def test_what_a_replica_compiled_is_found_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, store = tmp_path / "cache", Store(str(tmp_path / "store"))
    monkeypatch.setenv("RAYLOOM_CACHE", str(cache))
    made(store, "tiny", "model", write_model)
    first, compiled = start_of_a_service(tmp_path, store), files_in(cache / "compiled")
    second = start_of_a_service(tmp_path, store)
    assert all(first[phase] > 0 and second[phase] > 0 for phase in PHASES)
    assert {name for name in compiled if name.endswith(".so")}
    assert {name for name in compiled if "torch_compile_cache" in name}
    assert files_in(cache / "compiled") == compiled


def start_of_a_service(folder: Path, store: Store) -> dict[str, Any]:
    """The phases of the start of a service that is stopped again, as `rayloom serve status` gives them."""
    port = free_port()
    job = write_job(folder, port, {"compiled": True, "max_model_length_tokens": 64}, model={"model": "artifact:tiny"})
    with running(job, port, store) as service:
        (state,) = json.loads(service.command("serve", "status", "--json").stdout)
        assert f"{MODEL} started in" in service.said
    start: dict[str, Any] = state["models"][MODEL][0]["start"]
    print(start, flush=True)
    return start


def files_in(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock"}
