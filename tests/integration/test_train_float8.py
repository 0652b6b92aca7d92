"""Training in float8, its rounding emulated on a CPU: it learns as well, resumes exactly and saves a plain model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from support.training_jobs import ONE, small_job
from test_train_loop import KilledError, killed_at, quiet, steps
from torch import nn

from rayloom.specs.training.kernels import Float8
from rayloom.train.loop import loop, run_state
from rayloom.train.weights.kernels import use_float8
from rayloom.train.weights.layers import layers_of

if importlib.util.find_spec("torchao") is None:
    pytest.skip("torchao is not installed: it is in the GPU lock only", allow_module_level=True)

LINEAR_LAYERS = 2 * 7
MOST_NATS = 0.1


@pytest.fixture
def emulate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the loop's models multiply in float8, which a spec has only for GPUs."""
    own = run_state.build_model

    def with_recipe(recipe: Float8) -> None:
        def build(*given: Any) -> nn.Module:
            model = own(*given)
            assert use_float8(layers_of(model), recipe, is_emulated=True) == LINEAR_LAYERS
            return model

        monkeypatch.setattr(run_state, "build_model", build)

    return with_recipe


def tensors(folder: Path) -> dict[str, tuple[list[int], str]]:
    with safe_open(folder / "out" / "model.safetensors", "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return {name: (part.get_shape(), part.get_dtype()) for name, part in slices.items()}


@pytest.mark.parametrize(("recipe", "stage"), [("tensorwise", 0), ("rowwise", 0), ("rowwise", 2)])
def test_it_learns_as_well_resumes_exactly_and_saves_a_plain_model(
    tmp_path: Path, emulate: Any, recipe: Float8, stage: int
) -> None:
    changes = {"sharding": {"zero_stage": stage}}
    loop.train(small_job(tmp_path / "plain", **changes), ONE, quiet)
    emulate(recipe)
    loop.train(small_job(tmp_path / "whole", **changes), ONE, quiet)
    plain, whole = ([loss for loss, _ in steps(tmp_path / name).values()] for name in ("plain", "whole"))
    assert whole[-1] < whole[0] - 2 * MOST_NATS
    assert whole != plain
    assert whole == pytest.approx(plain, abs=MOST_NATS)
    with pytest.raises(KilledError):
        loop.train(small_job(tmp_path / "killed", **changes), ONE, killed_at(7))
    loop.train(small_job(tmp_path / "killed", **changes), ONE, quiet)
    assert steps(tmp_path / "killed") == steps(tmp_path / "whole")
    assert tensors(tmp_path / "whole") == tensors(tmp_path / "plain")
