"""Plans for a fleet on a laptop: what fits, what is wasted, how long it takes, against numbers worked out by hand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.training_jobs import small_spec

from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.training.hardware import device_named, fleet_of
from rayloom.train.planning.fleet import add_fleet, advice, duration, fits, problems, warnings
from rayloom.train.process_group import backend_for
from rayloom.train.publish import summarize
from rayloom.train.sizes.estimates import flops_per_token, memory_per_device
from rayloom.train.sizes.model_size import ModelSize, size_of_architecture
from rayloom.train.sizes.peaks import use_tensor_cores

LARGE: dict[str, Any] = {
    "architecture": {"type": "decoder", "num_layers": 20, "hidden_size": 2048, "num_heads": 16, "max_positions": 4096},
    "sequence_length_tokens": 4096,
    "micro_batch_sequences": 2,
    "global_batch_tokens": 8 * 2 * 4096,
    "precision": "bf16",
    "workers": {"num_workers": 8, "gpus_per_worker": 1},
    "hardware": "8xH100-80GB",
    "sharding": {"zero_stage": 1},
}


def spec_and_size(**changes: Any) -> tuple[Any, ModelSize]:
    spec = small_spec(**(LARGE | changes))
    return spec, size_of_architecture(spec.architecture, 32768)


def test_a_fleet_is_read_off_its_name() -> None:
    fleet = fleet_of("4x8xh100-80gb")
    assert (fleet.num_nodes, fleet.devices_per_node, fleet.num_devices) == (4, 8, 32)
    assert fleet.device.name == "H100-80GB"
    assert fleet_of("A100-40GB").num_devices == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("8xH100", "such as 8xH100-80GB"),
        ("8xH100-90GB", "did you mean H100-80GB"),
        ("0xH100-80GB", "at least one node"),
        ("many", "must be COUNTxDEVICE"),
    ],
)
def test_what_is_no_fleet_is_an_error_of_the_file(text: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        small_spec(hardware=text)


def test_the_size_by_hand() -> None:
    # Of each layer four matrices of 2048² and three of 2048 × 5504 (8/3 of 2048, up to a multiple of 64), two norms.
    _, size = spec_and_size()
    layer = 4 * 2048**2 + 3 * 2048 * 5504
    assert size.multiplied == 20 * layer + 32768 * 2048
    assert size.parameters == 20 * (layer + 2 * 2048) + 2048 + 32768 * 2048
    # Six for each, and attention's 12 · L · D · S.
    assert flops_per_token(size, 4096) == 6 * size.multiplied + 12 * 20 * 2048 * 4096


def test_attention_is_counted_by_the_heads() -> None:
    """Of Qwen3-0.6B, say, 16 heads of 128 are twice as wide as the hidden size of 1,024."""
    _, size = spec_and_size()
    wide = replace(size, head_size=2 * size.head_size)
    assert flops_per_token(wide, 4096) == 6 * size.multiplied + 2 * 12 * 20 * 2048 * 4096


@pytest.mark.parametrize(
    ("driver_name", "device"),
    [
        ("NVIDIA H100 80GB HBM3", "H100-80GB"),
        ("NVIDIA H100 PCIe", "H100-PCIe-80GB"),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200", "H200-141GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-80GB"),
        ("NVIDIA A10", "A10-24GB"),
        ("Tesla V100-SXM2-32GB", "V100-32GB"),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_card_is_found_in_the_table_by_its_drivers_name(driver_name: str, device: str | None) -> None:
    """Cards that differ in memory alone have one speed, which is what is asked for."""
    found = device_named(driver_name)
    assert (found.name if found else None) == device


def test_utilisation_is_of_the_data_sheets_speed_where_there_is_one() -> None:
    events: list[dict[str, Any]] = [
        {"event": "device", "step": 0, "device": "NVIDIA H100", "num_workers": 2, "peak_flops": 700e12,
         "data_sheet_flops": 989e12, "flops_per_token": 6e9},
        {"event": "step", "step": 1, "loss": 1.0, "tokens": 100_000, "seconds": 1.0, "data_wait_seconds": 0.0},
        {"event": "finished", "step": 1, "tokens": 100_000, "best_step": None, "skipped_steps": [],
         "checkpoint_stall_seconds": 0.0},
    ]  # fmt: skip
    metrics = summarize(events)
    assert metrics["model_flops_utilisation"] == pytest.approx(100_000 * 6e9 / 2 / 989e12, rel=1e-3)
    assert metrics["utilisation_of_measured_peak"] == pytest.approx(100_000 * 6e9 / 2 / 700e12, rel=1e-3)
    del events[0]["data_sheet_flops"]
    assert summarize(events)["model_flops_utilisation"] == metrics["utilisation_of_measured_peak"]


def test_a_cpus_arithmetic_is_left_as_it_is() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    use_tensor_cores(torch.device("cpu"))
    assert torch.backends.cuda.matmul.fp32_precision == before
    try:
        use_tensor_cores(torch.device("cuda"))
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def test_tensors_of_a_gpu_are_summed_by_nccl() -> None:
    assert backend_for(torch.device("cuda", 0)) == "nccl"
    assert backend_for(torch.device("cpu")) == "gloo"


def test_what_an_encoder_decoder_computes_by_hand() -> None:
    spec = small_spec(architecture={"type": "encoder-decoder", "num_layers": 2, "hidden_size": 64, "num_heads": 2})
    size = size_of_architecture(spec.architecture, 128)  # type: ignore[arg-type]
    encoder = 2 * (4 * 64**2 + 3 * 64 * 192)
    assert size.multiplied - size.multiplied_in_decoder == encoder
    assert size.multiplied_in_decoder == 2 * (8 * 64**2 + 3 * 64 * 192) + 128 * 64
    # 15 % in spans of 3: it reads 85 % and a sentinel for each 20 tokens, and writes 15 % and as many sentinels.
    attention = 12 * 2 * 64 * 16 * (0.9**2 + 0.2**2 + 0.9 * 0.2)
    by_hand = 6 * (encoder * 0.9 + size.multiplied_in_decoder * 0.2) + attention
    assert flops_per_token(size, 16, spec.objective_in_use) == pytest.approx(by_hand, abs=1)


def test_memory_by_hand() -> None:
    spec, size = spec_and_size()
    memory = memory_per_device(spec, size)
    assert memory.weights == 2 * size.parameters
    assert memory.gradients == 4 * size.parameters
    assert memory.optimizer == 12 * size.parameters // 8


def test_a_job_that_fits_has_a_time_and_no_problem() -> None:
    spec, size = spec_and_size()
    sheet = PlanSheet()
    add_fleet(sheet, spec, size, num_tokens=10**9)
    facts = dict(sheet.facts)
    assert "1 node × 8 H100-80GB, 989 TFLOP/s" in facts["hardware"]
    seconds = flops_per_token(size, 4096) * 1e9 / (8 * 989e12 * 0.4)
    assert facts["time"].startswith(f"about {duration(seconds)} on 8 devices")
    assert facts["memory by ZeRO stage"].startswith("0: ")
    assert sheet.problems == []
    assert sheet.warnings == []


def test_what_does_not_fit_is_a_problem_with_its_way_out() -> None:
    spec, size = spec_and_size(micro_batch_sequences=16, global_batch_tokens=8 * 16 * 4096)
    fleet = fleet_of("8xH100-80GB")
    assert not fits(spec, size, fleet)
    (said,) = problems(spec, size, fleet)
    assert "do not fit into the 80 GB of a H100-80GB" in said
    assert "it would with micro_batch_sequences: 8" in advice(spec, size, fleet)
    far_too_large, size = spec_and_size(micro_batch_sequences=64, global_batch_tokens=8 * 64 * 4096)
    assert "it would with activation_checkpointing: true" in advice(far_too_large, size, fleet)
    assert fits(far_too_large.model_copy(update={"activation_checkpointing": True}), size, fleet)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workers": {"num_workers": 16, "gpus_per_worker": 1}, "global_batch_tokens": 131072}, "16 workers need"),
        ({"workers": {"num_workers": 8}}, "gpus_per_worker is 0"),
        ({"hardware": "8xV100-32GB"}, "does not compute in bf16: set precision: fp16"),
    ],
)
def test_what_cannot_run_there_is_a_problem(changes: dict[str, Any], said: str) -> None:
    spec, size = spec_and_size(**changes)
    assert any(said in problem for problem in problems(spec, size, fleet_of(spec.hardware)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workers": {"num_workers": 4, "gpus_per_worker": 1}}, "4 of 8 devices would have no worker"),
        ({"sequence_length_tokens": 256}, "512 tokens at once do not fill"),
        ({"precision": "fp32"}, "set precision: bf16"),
        ({"activation_checkpointing": True}, "all fits without it"),
        ({"sharding": {"zero_stage": 2, "offload": {"optimizer": True}}}, "offload makes every step slower"),
    ],
)
def test_waste_is_a_warning(changes: dict[str, Any], said: str) -> None:
    spec, size = spec_and_size(**changes)
    assert any(said in warning for warning in warnings(spec, size, fleet_of(spec.hardware)))


@pytest.mark.full
def test_a_run_loads_no_planner_and_no_engine() -> None:
    """Also not through Ray and torch; test_architecture.py reads it off our own imports."""
    code = "import sys, rayloom.train.run; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "rayloom.train.publish" in loaded
    heavy = ("rayloom.train.plan", "transformers", "deepspeed", "peft", "matplotlib", "vllm")
    assert [name for name in loaded if name.startswith(heavy)] == []
