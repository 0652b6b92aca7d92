"""Training killed at random, again and again: `make chaos-train`. Small in tests/integration/test_train_on_ray.py.

For each seed a job of two workers is killed at a random step by SIGKILL: a worker for even seeds, the whole command for
odd ones, which is then run again. The loss of every step must be, bit for bit, that of the run that nobody disturbed.
Then one job in fp32 and one in bf16 begin on two workers (by torchrun), are killed, go on on one, are killed and end on
two: every loss within 1e-3 and 1e-2. Prints, last, one JSON object; exits with 1 where a loss differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.training_jobs import made_up_corpus, small_spec

from rayloom.artifacts.store import Store
from rayloom.train.loop.run_log import read_log

PLATFORM = Path(__file__).parents[2] / "platform"
NUM_STEPS, EVERY_STEPS, LAST_KILL_STEP = 300, 10, 110
ORPHANS_SECONDS = 60
TOLERANCE_NATS = {"fp32": 1e-3, "bf16": 1e-2}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    with tempfile.TemporaryDirectory(prefix="rayloom-chaos-") as folder:
        chaos = Chaos(Path(folder))
        whole = chaos.losses("whole")
        found = [chaos.disturbed(seed, whole) for seed in seeds]
        elastic = [chaos.elastic("fp32", chaos.torchrun_losses("whole-fp32", "fp32")), chaos.elastic("bf16", whole)]
    wrong = [str(one["seed"]) for one in found if not one["is_equal"]]
    wrong += [one["precision"] for one in elastic if not one["most_apart"] <= TOLERANCE_NATS[one["precision"]]]
    print(json.dumps({
        "runs": found,
        "most_lost_steps": max((one["lost_steps"] for one in found), default=0),
        "checkpoint_every_steps": EVERY_STEPS,
        "elastic": elastic,
        "wrong": wrong,
    }))  # fmt: skip
    return 1 if wrong else 0


class Chaos:
    """A store with a corpus, and jobs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(str(folder / "store"))
        made_up_corpus(self.store)

    def losses(self, name: str) -> dict[int, float]:
        """Runs the job to its end, where it is not there yet."""
        _end(self._start(name), name)
        return self._logged(name)

    def disturbed(self, seed: int, whole: dict[int, float]) -> dict[str, Any]:
        """A run in which a worker or the command is killed, against the one that nobody disturbed."""
        name, kills_worker, started = f"seed-{seed}", seed % 2 == 0, time.monotonic()
        step = random.Random(seed).randrange(EVERY_STEPS, LAST_KILL_STEP)
        running = self._start(name)
        reached = self._wait(name, step, running)
        others = psutil.Process(running.pid).children(recursive=True)
        workers = [process for process in others if _is_worker(process)]
        if kills_worker:
            random.Random(seed).choice(workers).send_signal(signal.SIGKILL)
            _end(running, name)  # the same command starts another worker by itself
            losses = self._logged(name)
        else:
            running.send_signal(signal.SIGKILL)
            # Its workers go on until their cluster notices that nobody is left to work for.
            psutil.wait_procs(others, timeout=ORPHANS_SECONDS)
            reached = self._last_step(name)
            running.communicate()
            losses = self.losses(name)
        one = {"seed": seed, "killed": "worker" if kills_worker else "driver", "at_step": reached,
               "resumed_at": self._resumed_at(name), "lost_steps": max(0, reached - self._resumed_at(name)[-1]),
               "is_equal": losses == whole, "seconds": round(time.monotonic() - started)}  # fmt: skip
        print(json.dumps(one), flush=True)
        return one

    def elastic(self, precision: str, whole: dict[int, float]) -> dict[str, Any]:
        """A run on two workers, then on one, then on two again, killed in between."""
        name = f"elastic-{precision}"
        reached = []
        for num_workers, until in ((2, NUM_STEPS // 4), (1, NUM_STEPS // 2)):
            running = self._torchrun(name, precision, num_workers)
            reached.append(self._wait(name, until, running))
            _kill_with_children(running)
        losses = self.torchrun_losses(name, precision)
        apart = max(abs(losses[step] - loss) for step, loss in whole.items())
        one = {"precision": precision, "killed_at": reached, "resumed_at": self._resumed_at(name), "most_apart": apart}
        print(json.dumps(one), flush=True)
        return one

    def torchrun_losses(self, name: str, precision: str) -> dict[int, float]:
        """Runs the job to its end on two workers without Ray."""
        _end(self._torchrun(name, precision, 2), name)
        return self._logged(name)

    def _logged(self, name: str) -> dict[int, float]:
        log = self.store.open(self.store.resolve(name)).path / "metrics.jsonl"
        return {event["step"]: event["loss"] for event in read_log(log) if event["event"] == "step"}

    def _resumed_at(self, name: str) -> list[int]:
        metrics = self.store.open(self.store.resolve(name)).manifest.metrics
        if "resumed_at_steps" not in metrics:
            raise SystemExit(f"{name} was killed and never went on from a checkpoint")
        return list(metrics["resumed_at_steps"])

    def _start(self, name: str) -> subprocess.Popen[str]:
        return self._command(name, "bf16", "-m", "rayloom", "run")

    def _torchrun(self, name: str, precision: str, num_workers: int) -> subprocess.Popen[str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", str(num_workers), "--master-port", str(port))
        return self._command(name, precision, *torchrun, "-m", "rayloom.train")

    def _command(self, name: str, precision: str, *command: str) -> subprocess.Popen[str]:
        """A Python process with the job's file as the last argument."""
        changes = {"workers": {"num_workers": 2}, "sharding": {"zero_stage": 2}, "precision": precision}
        spec = small_spec(name=name, num_steps=NUM_STEPS, checkpoints={"every_steps": EVERY_STEPS}, **changes)
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True)))
        kept = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        more = {"RAYLOOM_STORE": self.store.root, "PYTHONPATH": str(PLATFORM), "OMP_NUM_THREADS": "1"}
        line = [sys.executable, *command, str(file)]
        return subprocess.Popen(line, env=kept | more, stderr=subprocess.PIPE, text=True)

    def _wait(self, name: str, step: int, running: subprocess.Popen[str]) -> int:
        """The step that the run's log has come to, at least the one asked for."""
        while running.poll() is None:
            reached = self._last_step(name)
            if reached >= step:
                return reached
            time.sleep(0.02)
        raise SystemExit(f"{name} ended before step {step}: {running.communicate()[1]}")

    def _last_step(self, name: str) -> int:
        logs = (Path(self.store.root) / name).glob("*/.work/metrics.jsonl")
        return max((event["step"] for log in logs for event in read_log(log)), default=0)


def _end(running: subprocess.Popen[str], name: str) -> None:
    """Waits for a command that must succeed."""
    _, said = running.communicate()
    if running.returncode:
        raise SystemExit(f"{name} failed: {said}")


def _kill_with_children(running: subprocess.Popen[str]) -> None:
    """torchrun's workers have sessions of their own, and would go on without it."""
    children = psutil.Process(running.pid).children(recursive=True)
    for process in (running, *children):
        process.send_signal(signal.SIGKILL)
    running.communicate()
    psutil.wait_procs(children)


def _is_worker(process: psutil.Process) -> bool:
    return "RayTrainWorker" in " ".join(process.cmdline())


if __name__ == "__main__":
    sys.exit(main())
