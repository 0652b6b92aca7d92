"""The harness' results as a check's, and what is said where it is not installed."""

from __future__ import annotations

import importlib.util

import pytest

from rayloom.errors import InputError
from rayloom.evaluate.checks.harness import as_measured, check_harness_ready
from rayloom.specs.evaluate import HarnessCheck


def test_results_become_a_score_with_an_interval_and_texts_to_read() -> None:
    samples = [
        {"doc_id": n, "doc": {"q": n}, "target": "a", "filtered_resps": ["a"], "metrics": ["acc"], "acc": float(n > 0)}
        for n in range(4)
    ]
    numbers = {"alias": "quiz", "acc,none": 0.75, "acc_stderr,none": 0.25}
    found = as_measured("lm-eval", {"results": {"quiz": numbers}, "samples": {"quiz": samples}})
    assert found.metrics["score"] == 0.75
    assert found.metrics["tasks"] == {"quiz": {"acc": 0.75, "acc_stderr": 0.25}}
    low, high = found.metrics["interval"]
    assert 0 <= low < 0.75 < high <= 1
    assert [row["is_right"] for row in found.predictions] == [False, True, True, True]
    assert found.predictions[1]["origin"] == "quiz document 1"


def test_a_measure_without_a_number_for_each_document_is_refused() -> None:
    sample = {"doc_id": 0, "metrics": ["word_perplexity"], "word_perplexity": (-3.0, 2)}
    with pytest.raises(InputError, match="has no word_perplexity for each document"):
        as_measured("x", {"results": {"wiki": {}}, "samples": {"wiki": [sample]}})


def test_without_the_harness_the_line_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check = HarnessCheck.model_validate({"type": "lm_eval", "tasks": ["x"]})
    with pytest.raises(InputError, match=r"pip install 'lm-eval==0\.4\.13'"):
        check_harness_ready(check)
    served = check.model_copy(update={"endpoint": {"url": "http://localhost:8000", "model": "m"}})
    with pytest.raises(InputError, match=r"pip install 'lm-eval\[api\]==0\.4\.13'"):
        check_harness_ready(served)
