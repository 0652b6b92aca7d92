"""The README's first command, whole: raw text in, a served model out; and again, with everything found finished."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rayloom.artifacts.store import Artifact, Store
from rayloom.specs.search.space import value_at

QUICKSTART = Path(__file__).parents[2] / "jobs" / "quickstart"

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]


def run_pipeline(store: Path) -> str:
    """What the command said."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "rayloom", "run", str(QUICKSTART / "pipeline.yaml")]
    done = subprocess.run(
        command, env=environment | {"RAYLOOM_STORE": str(store)}, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("quickstart")
    run_pipeline(folder)
    return Store(str(folder))


def result(store: Store, name: str) -> Artifact:
    return store.open(store.resolve(f"artifact:{name}"))


def test_the_second_run_finds_everything_finished(store: Store) -> None:
    said = run_pipeline(Path(store.root))
    stages = int(re.findall(r"\[1/(\d+)\]", said)[0])
    assert len(re.findall(r"\breused\b", said)) == stages


def test_the_pretrained_model_knows_more_than_counting_does(store: Store) -> None:
    metrics = result(store, "tiny-base").manifest.metrics
    perplexity = metrics["heldout"]["heldout"]["after"]["perplexity"]
    assert perplexity < metrics["baselines"]["bigram_perplexity"]
    assert perplexity < metrics["baselines"]["unigram_perplexity"] / 2


def test_the_model_is_tuned_with_the_best_values_of_the_search(store: Store) -> None:
    best = result(store, "loomie-search").manifest.metrics["best"]
    assert best["outcome"] == "finished"
    tuned = result(store, "loomie-adapter").manifest.spec
    assert {path: value_at(tuned, path) for path in best["values"]} == best["values"]
    assert set(best["values"]) == {"adapter.rank", "learning_rate", "adapter.alpha"}


def test_the_quantised_model_is_small_and_as_good(store: Store) -> None:
    metrics = result(store, "loomie-int8").manifest.metrics
    assert metrics["perplexity_ratio"] <= 1.05
    assert metrics["linear_bytes"]["share"] <= 0.51
    assert metrics["file_bytes"]["share"] <= 0.62


def test_the_served_model_comes_from_all_that_was_imported(store: Store) -> None:
    command = [sys.executable, "-m", "rayloom", "artifacts", "lineage", "quickstart-serve"]
    shown = subprocess.run(
        command, env=os.environ | {"RAYLOOM_STORE": store.root}, capture_output=True, text=True, check=True
    ).stdout
    for imported in ("web-pages@", "wiki@", "news@", "smollm2@", "instructions@"):
        assert imported in shown
