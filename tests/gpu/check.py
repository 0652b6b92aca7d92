"""What only a GPU can show, in twelve minutes on one H100 or H200: `make gpu-check`, or `python tests/gpu/check.py`.

Needs torch, transformers, pydantic, pyyaml, fsspec, rich and psutil. Steps that need more (PEFT, bitsandbytes, vLLM and
Ray, a second GPU) are skipped with that reason. Nothing is downloaded: models have random weights, made on the device.

Steps run in order of worth, each in a process of its own with a time limit of its own, and print one JSON line each.
The last line is one JSON object with `steps_passed`, `steps_failed`, `steps_skipped` and the targets that were missed.
Without a GPU the same steps run in a small form on the CPU. Exit code 1 if a step failed.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "bench"), str(HERE.parent), str(HERE.parents[1] / "platform")]

from place import Place, SkippedError  # noqa: E402 - found on the path above

RESULTS = HERE.parent / "bench" / "results"
ALL_SECONDS = 720
LEAST_SECONDS = 10
SLOWNESS = 4
"""Limits are for a machine of its own with a GPU; tests run on whatever is there."""


@dataclass(frozen=True)
class Step:
    """One question for the hardware. Its module has a function `measured`, or the name after the dot."""

    name: str
    function: str
    limit_seconds: int
    usual_seconds: int
    """On one H200, estimated until it has run there."""
    least_seconds: int = LEAST_SECONDS
    """With less time left it is not begun, for it would be cut off."""


STEPS = (
    Step("versions", "versions.measured", 40, 15),
    Step("arithmetic", "arithmetic.measured", 60, 25),
    Step("attention", "attention_kernels.measured", 90, 45),
    Step("pretraining", "pretraining.measured", 200, 130),
    Step("kernels", "fused_kernels.measured", 60, 20),
    Step("lora", "fine_tuning.lora", 120, 70),
    Step("qlora", "fine_tuning.qlora", 120, 80),
    Step("resume", "endurance.resumed", 60, 30),
    Step("workers", "endurance.several_workers", 60, 30),
    Step("adamw8bit", "long_tensors.measured", 45, 15),
    Step("gptq", "quantising.measured", 45, 20),
    Step("serving", "serving.measured", 240, 180),
    Step("full", "full_training.measured", 240, 150, least_seconds=90),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names of steps, with spaces or commas between them")
    parser.add_argument("--without", default="", help="names of steps to leave out")
    parser.add_argument("--small", action="store_true", help="the small form, on a GPU too")
    parser.add_argument("--seconds", type=float, default=ALL_SECONDS, help="for all steps together")
    parser.add_argument("--save", action="store_true", help="keep the result under tests/bench/results")
    options = parser.parse_args()
    chosen = set(options.only.replace(",", " ").split()) if options.only else {step.name for step in STEPS}
    chosen -= set(options.without.replace(",", " ").split())
    unknown = chosen - {step.name for step in STEPS}
    if unknown:
        parser.error(f"no such step: {', '.join(sorted(unknown))}")
    began, found = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        for step in STEPS:
            if step.name in chosen:
                left = options.seconds - (time.monotonic() - began)
                found.append(_run(step, Path(folder), left, options.small))
                print(json.dumps(found[-1]), flush=True)
    closing = _summary(found, time.monotonic() - began)
    if options.save:
        _save(found, closing)
    print(json.dumps(closing))
    return 1 if closing["steps_failed"] else 0


def _run(step: Step, folder: Path, left_seconds: float, is_small: bool) -> dict[str, Any]:
    """Runs the step in a new process group; whatever becomes of it, there is one result."""
    limit = min(step.limit_seconds * (1 if _has_gpu() else SLOWNESS), left_seconds)
    if limit < step.least_seconds:
        return {"step": step.name, "status": "skipped", "reason": "no time was left"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers"])
    log, answer = folder / f"{step.name}.log", folder / f"{step.name}.json"
    work = folder / step.name
    work.mkdir()
    began = time.monotonic()
    process = context.Process(target=_child, args=(step.function, str(work), str(log), str(answer), is_small))
    process.start()
    process.join(limit)
    is_late = process.is_alive()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid or 0, signal.SIGKILL)  # what the step has started, too
    process.join()
    seconds = round(time.monotonic() - began, 1)
    times = {"usual_seconds": step.usual_seconds, "limit_seconds": step.limit_seconds}
    base: dict[str, Any] = {"step": step.name, "seconds": seconds, **times}
    if answer.exists():
        return base | json.loads(answer.read_text())
    reason = f"it took longer than {limit:.0f} seconds" if is_late else f"it ended with code {process.exitcode}"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return base | {"status": "failed", "reason": reason, "log": lines[-5:]}


def _has_gpu() -> bool:
    """Without loading torch, whose first use of a GPU belongs to the steps' own processes."""
    return Path("/proc/driver/nvidia").exists() or Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()


def _child(function: str, work: str, log: str, answer: str, is_small: bool) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        module, _, name = function.partition(".")
        found = {"status": "passed", **getattr(importlib.import_module(module), name)(Place.here(Path(work), is_small))}
    except SkippedError as reason:
        found = {"status": "skipped", "reason": str(reason)}
    except BaseException as error:  # noqa: BLE001 - any failure is the step's result
        traceback.print_exc()
        told = [line.strip() for line in traceback.format_exc().splitlines()[-7:]]
        found = {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:500], "log": told}
    written = Path(answer).with_suffix(".part")
    written.write_text(json.dumps(found))
    written.rename(answer)


def _summary(found: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    def named(status: str) -> list[str]:
        return [result["step"] for result in found if result["status"] == status]

    missed = {
        f"{result['step']}.{name}": target
        for result in found
        for name, target in result.get("targets", {}).items()
        if not target["is_reached"]
    }
    device = next((result["device"] for result in found if "device" in result), None)
    return {
        "device": device,
        "steps_passed": len(named("passed")),
        "steps_failed": len(named("failed")),
        "steps_skipped": len(named("skipped")),
        "failed": named("failed"),
        "skipped": named("skipped"),
        "targets_missed": missed,
        "seconds": round(seconds, 1),
    }


def _save(found: list[dict[str, Any]], closing: dict[str, Any]) -> None:
    device = str(closing["device"] or "device").lower()
    slug = "-".join("".join(letter if letter.isalnum() else " " for letter in device).split())
    file = RESULTS / f"gpu-{slug}-{datetime.date.today()}.json"
    file.write_text(json.dumps({"steps": found, **closing}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
