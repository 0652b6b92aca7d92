"""What several integration tests need and is made once: a store with the real model and the real instructions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.service import Served, free_port, served_by, write_job

from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, run

QUICKSTART = Path(__file__).parents[2] / "jobs" / "quickstart"


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store for the whole session; downloaded packages stay in the machine's cache between sessions."""
    return Store(str(tmp_path_factory.mktemp("shared-store")))


@pytest.fixture(scope="session")
def smollm2(shared_store: Store) -> Artifact:
    """SmolLM2-135M-Instruct, as the quickstart imports it."""
    return run(load_job(QUICKSTART / "import-smollm2.yaml"), shared_store)[0]


@pytest.fixture(scope="session")
def instructions(shared_store: Store) -> Artifact:
    """Alpaca and identity rows, as the quickstart imports them."""
    return run(load_job(QUICKSTART / "import-instructions.yaml"), shared_store)[0]


@pytest.fixture(scope="session")
def served(
    smollm2: Artifact, instructions: Artifact, shared_store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """One service with keys, limits and adapters; the last test of it stops it."""
    from support.adapters import trained_adapter

    for seed, name in enumerate(("first-lora", "second-lora")):
        trained_adapter(shared_store, smollm2, instructions, name, seed, change=_strengthened)
    folder, port = tmp_path_factory.mktemp("serve"), free_port()
    job = write_job(
        folder,
        port,
        {"tool_parser": "hermes"},
        model={
            "adapters": {"max_loaded": 1, "max_at_once": 1, "max_rank": 8},
            "autoscaling": {"target_ongoing_requests": 4, "max_ongoing_requests": 24, "max_queued_requests": 32},
        },
        chat_page=True,
        doors={"keys_required": True, "max_request_bytes": 20_000},
    )
    with served_by(job, port, shared_store) as found:
        yield found


def _strengthened(folder: Path) -> None:
    """An adapter whose answers are told from the base's at once."""
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    save_file({name: value * 10 if "lora_B" in name else value for name, value in load_file(file).items()}, file)
