"""Measures of a sequence of trainings against numbers worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rayloom.evaluate.sequence import continual
from rayloom.specs.evaluate import EvaluateSpec

SCORES = [[0.9, 0.5, 0.4], [0.7, 0.8, 0.6], [0.6, 0.9, 0.7]]


def test_the_measures_are_the_papers() -> None:
    found = continual(SCORES, before=[0.5, 0.4, 0.3])
    assert found.average == pytest.approx((0.6 + 0.9 + 0.7) / 3)
    assert found.backward_transfer == pytest.approx(((0.6 - 0.9) + (0.9 - 0.8)) / 2)
    assert found.forgetting == pytest.approx(((0.9 - 0.6) + (0.8 - 0.9)) / 2)
    assert found.forward_transfer == pytest.approx(((0.5 - 0.4) + (0.6 - 0.3)) / 2)
    assert continual(SCORES).forward_transfer is None


def test_a_sequence_has_a_task_for_each_stage() -> None:
    values: dict[str, Any] = {"kind": "evaluate", "name": "e", "model": "artifact:c", "baseline": "artifact:start"}
    checks = [{"type": "task", "name": name, "rows_of": f"artifact:{name}"} for name in "abc"]
    spec = EvaluateSpec.model_validate(values | {"earlier": ["artifact:a", "artifact:b"], "checks": checks})
    assert spec.stages == ("earlier.0", "earlier.1", "model")
    assert spec.compared == ("baseline", "earlier.0", "earlier.1", "model")
    assert EvaluateSpec.model_validate(values | {"checks": checks}).stages == ()
    with pytest.raises(ValidationError, match="are 3 stages, and there are 2 checks: give one for the task of each"):
        EvaluateSpec.model_validate(values | {"earlier": ["artifact:a", "artifact:b"], "checks": checks[:2]})
