"""What saves memory or time changes no number: recomputing, fp16 and its scale, 8-bit moments, DeepSpeed's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.training_jobs import ONE, small_job, small_spec
from test_train_loop import KilledError, events, killed_at, quiet, steps

from rayloom.score.label_loss import LabelLoss
from rayloom.train import precision
from rayloom.train.engines import stored_state
from rayloom.train.engines.zero import deepspeed_config
from rayloom.train.loop import loop
from rayloom.train.objectives.objective import NextToken
from rayloom.train.sizes.estimates import memory_per_device
from rayloom.train.sizes.model_size import size_of_architecture
from rayloom.train.state import TrainState
from rayloom.train.weights.layers import layers_of, prepare_layers
from rayloom.train.weights.model import build_model

GPU = {"workers": {"num_workers": 1, "gpus_per_worker": 1}}
"""What a spec must say for fp16 and 8 bits; the loop then runs on whatever device its group has."""
TINY = {"num_layers": 2, "hidden_size": 16, "num_heads": 2}
SHAPES: dict[str, dict[str, Any]] = {
    "decoder": {},
    "encoder": {"architecture": {"type": "encoder", "num_layers": 2, "hidden_size": 16, "num_heads": 2}},
    "encoder-decoder": {
        "architecture": {"type": "encoder-decoder", "num_layers": 2, "hidden_size": 16, "num_heads": 2}
    },
}


@pytest.mark.parametrize("name", SHAPES)
def test_recomputing_keeps_less_and_changes_nothing(tmp_path: Path, name: str) -> None:
    for recompute in (False, True):
        changes = SHAPES[name] | {"activation_checkpointing": recompute, "num_steps": 3}
        loop.train(small_job(tmp_path / str(recompute), **changes), ONE, quiet)
    assert steps(tmp_path / "True") == steps(tmp_path / "False")


def test_recomputing_keeps_less(tmp_path: Path) -> None:
    job = small_job(tmp_path, num_steps=1)
    rows = NextToken(16).rows(job.train[0])
    batch = NextToken(16).batch([rows.row(n) for n in range(4)], [(0,)] * 4)
    kept = []
    for recompute in (False, True):
        spec = small_spec(activation_checkpointing=recompute)
        model = build_model(spec, None, job.tokenizer).train()
        prepare_layers(model, spec, ONE.device)
        sizes: list[int] = []

        def count(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            LabelLoss(model)(batch)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


def test_layers_are_the_blocks(tmp_path: Path) -> None:
    model = build_model(small_spec(), None, small_job(tmp_path).tokenizer)
    assert [type(layer).__name__ for layer in layers_of(model)] == ["LlamaDecoderLayer"] * 2


def test_fp16_learns_the_same_and_resumes_exactly(tmp_path: Path) -> None:
    loop.train(small_job(tmp_path / "fp32"), ONE, quiet)
    half = GPU | {"precision": "fp16"}
    loop.train(small_job(tmp_path / "whole", **half), ONE, quiet)
    assert events(tmp_path / "whole", "overflow") == []
    found = [[loss for loss, _ in steps(tmp_path / name).values()] for name in ("whole", "fp32")]
    assert found[0] == pytest.approx(found[1], abs=0.02)
    with pytest.raises(KilledError):
        loop.train(small_job(tmp_path / "killed", **half), ONE, killed_at(7))
    loop.train(small_job(tmp_path / "killed", **half), ONE, quiet)
    assert steps(tmp_path / "killed") == steps(tmp_path / "whole")


def test_an_overflow_halves_the_scale_and_is_no_bad_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**22)
    loop.train(small_job(tmp_path, **GPU, precision="fp16"), ONE, quiet)
    overflows = events(tmp_path, "overflow")
    assert [event["loss_scale"] for event in overflows] == [2.0 ** (22 - n) for n in range(len(overflows))]
    assert overflows
    assert events(tmp_path, "bad_step") == []
    assert len(steps(tmp_path)) == 12 - len(overflows)


def test_the_scale_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "STEPS_BEFORE_GROWTH", 3)
    state = TrainState()
    seen = []
    for is_applied in (True, True, True, False, True):
        precision.after_step("fp16", state, is_applied)
        seen.append(state.loss_scale)
    assert seen == [2.0**14, 2.0**14, 2.0**15, 2.0**14, 2.0**14]
    state.loss_scale = 1.0
    assert not precision.after_step("fp16", state, is_applied=False)
    assert not precision.after_step("bf16", state, is_applied=True)


def test_moments_in_8_bits_learn_alike_and_resume_exactly(tmp_path: Path) -> None:
    larger = {
        "architecture": {"type": "decoder", "num_layers": 2, "hidden_size": 32, "num_heads": 2, "max_positions": 32},
        "learning_rate": 0.003,
    }
    loop.train(small_job(tmp_path / "adamw", **larger), ONE, quiet)
    bits = larger | GPU | {"optimizer": {"type": "adamw8bit"}}
    loop.train(small_job(tmp_path / "whole", **bits), ONE, quiet)
    found = [[loss for loss, _ in steps(tmp_path / name).values()] for name in ("whole", "adamw")]
    assert found[0] == pytest.approx(found[1], abs=0.02)
    with pytest.raises(KilledError):
        loop.train(small_job(tmp_path / "killed", **bits), ONE, killed_at(7))
    loop.train(small_job(tmp_path / "killed", **bits), ONE, quiet)
    assert steps(tmp_path / "killed") == steps(tmp_path / "whole")


def test_a_tensor_too_large_for_the_8_bit_kernel_is_cut_and_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    larger = {
        "architecture": {"type": "decoder", "num_layers": 2, "hidden_size": 64, "num_heads": 2, "max_positions": 32},
        "optimizer": {"type": "adamw8bit"},
    }
    loop.train(small_job(tmp_path / "whole", **(larger | GPU)), ONE, quiet)
    monkeypatch.setattr(stored_state, "MOST_WEIGHTS_AT_ONCE", 3 * 8192)
    sizes = [len(piece) for piece in stored_state.pieces_of(torch.zeros(100_001), is_in_8_bits=True)]
    assert (len(sizes), sum(sizes), min(sizes) > 8192) == (5, 100_001, True)
    loop.train(small_job(tmp_path / "cut", **(larger | GPU)), ONE, quiet)
    assert steps(tmp_path / "cut") == steps(tmp_path / "whole")
    with pytest.raises(KilledError):
        loop.train(small_job(tmp_path / "killed", **(larger | GPU)), ONE, killed_at(7))
    loop.train(small_job(tmp_path / "killed", **(larger | GPU)), ONE, quiet)
    assert steps(tmp_path / "killed") == steps(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "fp16"}, "fp16 is for GPUs .* on CPUs use bf16"),
        ({"optimizer": {"type": "adamw8bit"}}, "adamw8bit is for GPUs .* on CPUs use adamw"),
        ({"optimizer": {"type": "adamw8bit"}, "sharding": {"zero_stage": 1}, **GPU}, "with stages 1 to 3 use adamw"),
        ({"sharding": {"offload": {"optimizer": True}}}, "offload.optimizer needs zero_stage"),
        ({"sharding": {"zero_stage": 2, "offload": {"parameters": True}}}, "needs zero_stage 3 and offload.optimizer"),
        ({"sharding": {"extra": {"wall_clock_breakdown": True}}}, "zero_stage 0 does not use"),
        ({"sharding": {"zero_stage": 2, "extra": {"bf16": {}, "zero_optimization": {"stage": 3}}}}, "bf16, stage"),
        ({"compile": True, "sharding": {"zero_stage": 3}}, "compile does not see through"),
    ],
)
def test_impossible_combinations_are_errors_of_the_file(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        small_spec(**changes)


def test_deepspeed_gets_what_the_spec_and_its_extra_say() -> None:
    extra = {"zero_optimization": {"round_robin_gradients": True}, "wall_clock_breakdown": True}
    spec = small_spec(sharding={"zero_stage": 2, "offload": {"optimizer": True}, "extra": extra})
    config = deepspeed_config(spec, 2, 1000, is_cuda=False)
    zero = config["zero_optimization"]
    assert (zero["stage"], zero["round_robin_gradients"], config["wall_clock_breakdown"]) == (2, True, True)
    assert zero["offload_optimizer"] == {"device": "cpu", "pin_memory": False}


def test_what_saves_memory_is_in_the_estimate() -> None:
    size = size_of_architecture(small_spec().architecture, 67)  # type: ignore[arg-type]
    plain = memory_per_device(small_spec(), size)
    assert memory_per_device(small_spec(activation_checkpointing=True), size).activations < plain.activations
    bits = small_spec(optimizer={"type": "adamw8bit"}, **GPU)
    assert plain.optimizer - memory_per_device(bits, size).optimizer == 6 * size.trained
    offloaded = small_spec(sharding={"zero_stage": 2, "offload": {"optimizer": True}})
    assert memory_per_device(offloaded, size).optimizer == 0


@pytest.mark.parametrize("stage", [2, 3])
def test_offloading_changes_nothing_and_resumes_exactly(tmp_path: Path, stage: int) -> None:
    kept = {"sharding": {"zero_stage": stage}}
    offloaded = {"sharding": {"zero_stage": stage, "offload": {"optimizer": True, "parameters": stage == 3}}}
    loop.train(small_job(tmp_path / "kept", **kept), ONE, quiet)
    loop.train(small_job(tmp_path / "whole", **offloaded), ONE, quiet)
    found = [[loss for loss, _ in steps(tmp_path / name).values()] for name in ("whole", "kept")]
    assert found[0] == pytest.approx(found[1], abs=1e-4)
    with pytest.raises(KilledError):
        loop.train(small_job(tmp_path / "killed", **offloaded), ONE, killed_at(7))
    loop.train(small_job(tmp_path / "killed", **offloaded), ONE, quiet)
    assert steps(tmp_path / "killed") == steps(tmp_path / "whole")


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_layers_give_the_same_losses(tmp_path: Path) -> None:
    for is_compiled in (False, True):
        loop.train(small_job(tmp_path / str(is_compiled), compile=is_compiled, num_steps=4), ONE, quiet)
    found = [[loss for loss, _ in steps(tmp_path / str(name)).values()] for name in (False, True)]
    assert found[0] == pytest.approx(found[1], abs=1e-5)
