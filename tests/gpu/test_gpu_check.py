"""The check for GPU machines: its small form where Ray, vLLM and DeepSpeed cannot be imported, and all of it there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECK = Path(__file__).parent / "check.py"
BLOCKING = """
import os, sys
for name in os.environ.get("BLOCKED_PACKAGES", "").split():
    sys.modules[name] = None  # importing it fails, and it is not found either
"""
ENGINES = "ray vllm deepspeed"


def checked(folder: Path, *arguments: str, blocked: str = "") -> list[dict[str, Any]]:
    """What it printed: a result for each step, then the summary."""
    (folder / "sitecustomize.py").write_text(BLOCKING)
    environment = os.environ | {"PYTHONPATH": str(folder), "BLOCKED_PACKAGES": blocked}
    command = [sys.executable, str(CHECK), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=870, check=False)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert results, done.stderr
    assert done.returncode == (1 if results[-1]["steps_failed"] else 0), done.stderr
    return results


def test_the_small_form_passes_without_engines(tmp_path: Path) -> None:
    *steps, closing = checked(tmp_path, "--small", blocked=ENGINES)
    assert [step for step in steps if step["status"] == "failed"] == []
    assert closing["skipped"] == ["kernels", "serving"]
    assert closing["steps_passed"] == len(steps) - 2 >= 10
    assert all(step["seconds"] > 0 for step in steps if step["status"] == "passed")


def test_what_a_step_needs_is_named_if_it_is_missing(tmp_path: Path) -> None:
    *steps, closing = checked(
        tmp_path, "--small", "--only", "lora,qlora,adamw8bit", blocked=f"{ENGINES} peft bitsandbytes"
    )
    reasons = {step["step"]: step["reason"] for step in steps}
    assert reasons == {
        "lora": "not installed: peft",
        "qlora": "not installed: peft, bitsandbytes",
        "adamw8bit": "not installed: bitsandbytes",
    }
    assert (closing["steps_passed"], closing["steps_failed"]) == (0, 0)


def test_a_step_that_fails_or_takes_too_long_is_one_line_and_the_others_run(tmp_path: Path) -> None:
    steps = checked(tmp_path, "--small", "--only", "versions,gptq", blocked=f"{ENGINES} rayloom.export.schemes.gptq")
    assert [step["status"] for step in steps[:-1]] == ["passed", "failed"]
    assert "rayloom.export.schemes.gptq" in steps[1]["reason"]
    assert steps[-1]["failed"] == ["gptq"]
    *steps, _ = checked(tmp_path, "--small", "--only", "versions,gptq", "--seconds", "1")
    assert [step["reason"] for step in steps] == ["no time was left"] * 2


@pytest.mark.full
def test_the_endpoint_beside_bare_vllm_in_the_small_form(tmp_path: Path) -> None:
    (step, closing) = checked(tmp_path, "--small", "--only", "serving")
    assert (step["status"], closing["steps_passed"]) == ("passed", 1), step
    assert set(step["throughput_ratio"]) == {"1", "4"}


@pytest.mark.gpu
def test_all_of_it_on_a_gpu(tmp_path: Path) -> None:
    *_, closing = checked(tmp_path)
    assert closing["failed"] == []
