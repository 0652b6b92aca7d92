"""Training killed at random, again and again: `make chaos-train`. Small in tests/integration/test_train_on_ray.py.

For each seed a job of two workers is killed at a random step by SIGKILL: a worker for even seeds, the whole command for
odd ones, which is then run again. The loss of every step must be, bit for bit, that of the run that nobody disturbed.
Prints, last, one JSON object; exits with 1 where a loss differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from training_jobs_for_tests import small_spec, write_rows, write_tokenizer

from rayloom.artifacts.build import Build, ResolvedJob, build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Store
from rayloom.specs.base import JobSpec
from rayloom.specs.clean import CleanSpec
from rayloom.train.log import read_log

PLATFORM = Path(__file__).parents[2] / "platform"
NUM_STEPS, EVERY_STEPS = 120, 10


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rayloom-chaos-") as folder:
        chaos = Chaos(Path(folder))
        whole = chaos.losses("whole")
        found = [chaos.disturbed(seed, whole) for seed in range(options.seeds)]
    differing = [one["seed"] for one in found if not one["is_equal"]]
    most = max((one["lost_steps"] for one in found), default=0)
    print(json.dumps({"runs": found, "most_lost_steps": most, "checkpoint_every_steps": EVERY_STEPS,
                      "differing_seeds": differing}))  # fmt: skip
    return 1 if differing else 0


class Chaos:
    """A store with a corpus, and jobs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(str(folder / "store"))
        self._write_corpus()

    def losses(self, name: str) -> dict[int, float]:
        """Runs the job to its end."""
        ended = self._start(name)
        _, said = ended.communicate()
        if ended.returncode:
            raise SystemExit(f"{name} failed: {said}")
        log = self.store.open(self.store.resolve(name)).path / "metrics.jsonl"
        return {event["step"]: event["loss"] for event in read_log(log) if event["event"] == "step"}

    def disturbed(self, seed: int, whole: dict[int, float]) -> dict[str, Any]:
        name, kills_worker = f"seed-{seed}", seed % 2 == 0
        step = random.Random(seed).randrange(EVERY_STEPS, NUM_STEPS - EVERY_STEPS)
        running = self._start(name)
        reached = self._wait(name, step, running)
        victims = psutil.Process(running.pid).children(recursive=True)
        workers = [process for process in victims if "RayTrainWorker" in " ".join(process.cmdline())]
        if kills_worker and workers:
            random.Random(seed).choice(workers).send_signal(signal.SIGKILL)
            running.communicate()
        else:
            running.send_signal(signal.SIGKILL)
            running.communicate()
        losses = self.losses(name)
        resumed = self.store.open(self.store.resolve(name)).manifest.metrics.get("resumed_at_steps", [0])[-1]
        one = {"seed": seed, "killed": "worker" if kills_worker else "driver", "at_step": reached,
               "lost_steps": max(0, reached - resumed), "is_equal": losses == whole}  # fmt: skip
        print(json.dumps(one), flush=True)
        return one

    def _start(self, name: str) -> subprocess.Popen[str]:
        changes = {"workers": {"num_workers": 2}, "sharding": {"zero_stage": 2}, "precision": "bf16"}
        spec = small_spec(name=name, num_steps=NUM_STEPS, checkpoints={"every_steps": EVERY_STEPS}, **changes)
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True)))
        kept = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        environment = kept | {"RAYLOOM_STORE": self.store.root, "PYTHONPATH": str(PLATFORM)}
        command = [sys.executable, "-m", "rayloom", "run", str(file)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def _wait(self, name: str, step: int, running: subprocess.Popen[str]) -> int:
        """The step that the run's log has come to, at least the one asked for."""
        while running.poll() is None:
            for log in (Path(self.store.root) / name).glob("*/.work/metrics.jsonl"):
                reached = max((event["step"] for event in read_log(log)), default=0)
                if reached >= step:
                    return reached
            time.sleep(0.02)
        raise SystemExit(f"{name} ended before step {step}")

    def _write_corpus(self) -> None:
        from transformers import AutoTokenizer

        from rayloom.text.tokenizer_digest import tokenizer_digest

        def stage(_: JobSpec, made: Build) -> Outcome:
            write_tokenizer(made.directory / "tokenizer")
            digest = tokenizer_digest(AutoTokenizer.from_pretrained(made.directory / "tokenizer"))
            write_rows(made.directory / "train", 400, seed=1, digest=digest)
            write_rows(made.directory / "heldout", 20, seed=2, digest=digest)
            return Outcome("corpus")

        source = {"name": "made-up", "dataset": "./rows", "format": {"type": "jsonl"}, "domain": "made-up"}
        output = {"type": "tokens", "tokenizer": {"type": "train"}}
        values = {"kind": "clean", "name": "made-up", "sources": [source], "output": output}
        build(ResolvedJob(CleanSpec.model_validate(values), 1, {}, Path.cwd()), self.store, stage)


if __name__ == "__main__":
    sys.exit(main())
