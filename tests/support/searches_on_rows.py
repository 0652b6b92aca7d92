"""Searches over a very small decoder on made-up rows: their store, their files, and commands that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from transformers import AutoTokenizer

from rayloom.artifacts.build import Build, ResolvedJob, build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Store
from rayloom.specs.base import JobSpec
from rayloom.text.tokenizer_files import tokenizer_digest
from support.training_jobs import small_spec, write_rows, write_tokenizer

NUM_STEPS = 12


class MadeUpCorpus(JobSpec):
    """A corpus of made-up rows."""

    kind: Literal["clean"] = "clean"
    name: str = "made-up"


def store_with_corpus(folder: Path) -> Store:
    found = Store(str(folder))
    build(ResolvedJob(MadeUpCorpus(), 1, {}, Path("/nowhere")), found, _write_corpus)
    return found


def _write_corpus(spec: JobSpec, build: Build) -> Outcome:
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(build.directory / "tokenizer"))
    for name, num_documents in (("train", 60), ("heldout", 8)):
        index = write_rows(build.directory / name, num_documents, seed=num_documents) / "index.json"
        facts = json.loads(index.read_text()) | {"tokenizer_digest": tokenizer_digest(tokenizer)}
        index.write_text(json.dumps(facts))
    return Outcome("corpus")


def search_file(folder: Path, **changes: Any) -> Path:
    """A search over the learning rate; `train` changes go into its training job."""
    train = small_spec(num_steps=NUM_STEPS, evaluate_every_steps=2).model_dump(mode="json")
    spec: dict[str, Any] = {
        "kind": "tune", "name": "search", "train": train | changes.pop("train", {}),
        "space": {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-1}},
        "budget": {"num_trials": 4}, "searcher": {"type": "random"}, "scheduler": {"type": "none"},
    }  # fmt: skip
    file = folder / "search.yaml"
    file.write_text(json.dumps(spec | changes))
    return file


def running_search(store: Store, file: Path, **environment: str) -> subprocess.Popen[str]:
    """`rayloom run` in a process of its own, with what it says in its standard output."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-m", "rayloom", "run", str(file)],
        env={**kept, **environment, "RAYLOOM_STORE": store.root},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def journal_of(store: Store, name: str) -> Path:
    """Waits until the search has begun."""
    found: Path = wait_for(lambda: next(iter((Path(store.root) / name).glob("*/.work/journal.jsonl")), None))
    return found


def events(journal: Path, kind: str | None = None) -> list[dict[str, Any]]:
    lines = journal.read_text().splitlines(keepends=True)
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event for event in found if kind in (None, event["type"])]


def wait_for(look: Callable[[], Any], seconds: float = 150) -> Any:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come")
