"""Learning from rewards killed ten times at random moments: `make chaos-rewards`.

vLLM's engine writes answers of several turns, a LoRA learns from them by GRPO. One run is left alone; in the other the
engine, the trainer or the whole command, which is then given again, is killed by SIGKILL, ten times in all. Answers,
rewards and losses of every step must be, bit for bit, those of the first. Prints, last, one JSON object; exits with 1
where something differs.
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

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.policies import same_training, write_engine_model, write_prompts_file, write_turns_job
from support.processes import processes_below

from rayloom.artifacts.store import Store
from rayloom.train.loop.run_log import read_log

NUM_STEPS = 40
VICTIMS = {"engine": "ray::AnswerEngine", "trainer": "RayTrainWorker", "command": ""}
"""What is killed in turn, and the title of its process."""
ORPHANS_SECONDS = 60


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="rayloom-chaos-") as temporary:
        folder = Path(temporary)
        write_engine_model(folder / "base")
        write_prompts_file(folder / "data")
        for name in ("whole", "killed"):
            write_turns_job(folder, name, num_steps=NUM_STEPS)
        _end(_start(folder, "whole"))
        running, kills = _start(folder, "killed"), []
        for number, step in enumerate(sorted(dice.sample(range(1, NUM_STEPS - 2), options.kills))):
            victim = list(VICTIMS)[number % len(VICTIMS)]
            reached = _wait(folder, step, running)
            time.sleep(dice.random())  # anywhere in a step
            kills.append({"killed": victim, "in_step": reached})
            print(json.dumps(kills[-1]), flush=True)
            running = _kill(folder, running, VICTIMS[victim])
        _end(running)
        expected, found = (_training(folder, name) for name in ("whole", "killed"))
    is_equal = found == expected
    print(json.dumps({"kills": kills, "steps": NUM_STEPS, "is_equal": is_equal}))
    return 0 if is_equal else 1


def _start(folder: Path, name: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"RAYLOOM_STORE": str(folder / "store")}
    said = (folder / f"{name}.said").open("a")
    return subprocess.Popen(
        [sys.executable, "-m", "rayloom", "run", f"{folder}/{name}.yaml"], env=environment, stderr=said, text=True
    )


def _kill(folder: Path, running: subprocess.Popen[str], title: str) -> subprocess.Popen[str]:
    """The command that goes on: the same one, or, where it was killed itself, a new one."""
    if title:
        for process in processes_below(title, running.pid):
            process.send_signal(signal.SIGKILL)
        return running
    below = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    # They go on until their cluster notices that nobody is left to work for.
    psutil.wait_procs(below, timeout=ORPHANS_SECONDS)
    return _start(folder, "killed")


def _wait(folder: Path, step: int, running: subprocess.Popen[str]) -> int:
    """The step that the run's log has come to, at least the one asked for."""
    while running.poll() is None:
        logs = (folder / "store" / "killed").glob("*/.work/metrics.jsonl")
        reached = max((event["step"] for log in logs for event in read_log(log) if event["event"] == "step"), default=0)
        if reached >= step:
            return reached
        time.sleep(0.05)
    raise SystemExit(f"the run ended before step {step}: {(folder / 'killed.said').read_text()}")


def _end(running: subprocess.Popen[str]) -> None:
    if running.wait():
        raise SystemExit(f"{running.args} failed")


def _training(folder: Path, name: str) -> list[Any]:
    store = Store(str(folder / "store"))
    return same_training(list(read_log(store.open(store.resolve(name)).path / "metrics.jsonl")))


if __name__ == "__main__":
    sys.exit(main())
