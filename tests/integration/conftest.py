"""What several integration tests need and is made once: a store with the real model and the real instructions."""

from __future__ import annotations

from pathlib import Path

import pytest

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
