"""Preparation of training rows measured: `make bench-prepare`, with ROWS=100000 for fewer.

One-turn rows of real sentences, by `prepare` as a training job calls it, by `datasets.map` with as many processes, and
by TRL's SFTTrainer, on the same file, template, mask and packing, each in a process of its own. Memory at 20,000 rows
and at all; tokens a second of twenty-turn rows beside one-turn rows; seconds of `rayloom plan`, the first time and
again; seconds that workers start in, of a run with another learning rate than the one before and of a search's trials.
CPU seconds are those of all processes; on a machine with other work, their ratios are the firmer ones. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "platform"))

from hardware import hardware
from instruction_rows import instruction_rows, write_rows
from process_memory import PeakMemory, cpu_seconds
from real_text import ROOT
from results_file import save

from rayloom.artifacts.store import Store
from rayloom.dispatch import load_job, run
from rayloom.train.loop.run_log import read_log

CORES = len(os.sched_getaffinity(0))
SMALL_ROWS, TURNS = 20_000, 20
LENGTH = 1024
JOB = """
kind: train
name: bench
base: artifact:smollm2
data:
  type: conversations
  sources: [{{uri: "file://{rows}", licence: CC-BY-NC-4.0, format: messages}}]
  length_policy: truncate
  heldout_rows: 8
adapter: {{type: lora, rank: 16}}
sequence_length_tokens: 1024
micro_batch_sequences: 1
global_batch_tokens: 1024
num_steps: 10
learning_rate: 1e-3
"""
SEARCH = """
kind: tune
name: bench-search
train: job.yaml
set: [num_steps=1, workers.cpus_per_worker=1]
space:
  learning_rate: {type: choice, values: [3e-3, 4e-3, 5e-3]}
searcher: {type: grid}
scheduler: {type: none}
budget: {num_trials: 3}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peer", type=Path, help="interpreter of an environment with TRL")
    parser.add_argument("--peer-rows", type=int, help="the peers prepare so many, where all would take too long")
    parser.add_argument("--parts", default="datasets_map,trl,turns,plans,starts", help="what is measured beside ours")
    parser.add_argument("--rows-in", type=Path, help="a folder in which rows that were written before are found again")
    parser.add_argument("--store", type=Path, help="a store that has the quickstart's imports already")
    parser.add_argument("--save", action="store_true", help="also write the result under tests/bench/results")
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        print(json.dumps(ours(**json.loads(options.ours))))
        return
    found: dict[str, Any] = {"hardware": hardware(), "date": time.strftime("%Y-%m-%d"), "rows": options.rows}
    found["load_before"] = round(os.getloadavg()[0], 1)  # other work on the machine
    with tempfile.TemporaryDirectory(prefix="rayloom-bench-") as folder:
        found |= measured(Path(folder), options)
    if options.save:
        save(f"prepare-{options.rows}-rows", found)
    print(json.dumps(found))


def measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    store = options.store or folder / "store"
    model = run(load_job(ROOT / "jobs" / "quickstart" / "import-smollm2.yaml"), Store(str(store)))[0].path

    def rows(count: int, turns: int = 1) -> Path:
        file = (options.rows_in or folder) / f"{count}-rows-of-{turns}.jsonl"
        return file if file.exists() else write_rows(file, instruction_rows(store, count, turns))

    large = rows(options.rows)
    whole = in_own_process(folder, model, large, LENGTH)
    found = {
        "rows_per_second": round(options.rows / whole["seconds"], 1),
        "rows_per_cpu_second": round(options.rows / whole["cpu_seconds"], 1),
        "tokens_a_row": round(whole["tokens"] / options.rows, 1),
        "peak_bytes": whole["peak_bytes"],
    }
    parts = options.parts.split(",")
    if options.peer:
        count = options.peer_rows or options.rows
        part = large if count >= options.rows else rows(count)
        ours_a_row = {name: whole[name] / options.rows for name in ("seconds", "cpu_seconds")}
        for which in (one for one in ("datasets_map", "trl") if one in parts):
            asked = {"which": which, "model": str(model), "rows": str(part), "length": LENGTH, "processes": CORES}
            theirs = peer(options.peer, asked | {"folder": str(folder / which)})
            found[f"{which}_rows_per_second"] = round(count / theirs["seconds"], 1)
            found[f"ratio_vs_{which}"] = round(theirs["seconds"] / count / ours_a_row["seconds"], 3)
            found[f"cpu_ratio_vs_{which}"] = round(theirs["cpu_seconds"] / count / ours_a_row["cpu_seconds"], 3)
            found[f"{which}_tokens_a_row"] = round(theirs["tokens"] / count, 1)
    few = in_own_process(folder, model, rows(SMALL_ROWS), LENGTH)
    found["peak_ratio"] = round(whole["peak_bytes"] / few["peak_bytes"], 3)
    if "turns" in parts:
        turns = rows(max(1000, options.rows // TURNS), TURNS)  # as much text, or the start would count for more
        many = in_own_process(folder, model, turns, 8 * LENGTH)
        for name, of_cpus in (("seconds", ""), ("cpu_seconds", "cpu_")):
            ratio = many["tokens"] / many[name] / (whole["tokens"] / whole[name])
            found[f"{of_cpus}turns_ratio"] = round(ratio, 3)
    (folder / "job.yaml").write_text(JOB.format(rows=large))
    if "plans" in parts:
        found |= plans(folder, store)
    if "starts" in parts:
        found |= starts(folder, store)
    return found


def in_own_process(folder: Path, model: Path, rows: Path, length: int) -> dict[str, Any]:
    """Seconds, tokens and peak memory of one preparation, other processes included."""
    asked = {"model": str(model), "rows": str(rows), "out": str(folder / f"out-{rows.stem}"), "length": length}
    command = [sys.executable, __file__, "--ours", json.dumps(asked)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, PeakMemory(process.pid) as memory:
        said, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    found: dict[str, Any] = json.loads(said.splitlines()[-1]) | {"peak_bytes": memory.peak_bytes}
    print(f"{rows.name}: {found}", file=sys.stderr, flush=True)
    return found


def ours(model: str, rows: str, out: str, length: int) -> dict[str, Any]:
    from rayloom.specs.training.training_data import ConversationData
    from rayloom.text.conversations.dataset import prepare
    from rayloom.text.conversations.render import Renderer

    source = {"dataset": "./rows", "format": "messages"}
    given = {"sources": [source], "length_policy": "truncate", "max_length_policy_share": 1.0}
    data = ConversationData.model_validate({"type": "conversations", **given})
    renderer = Renderer.of_model(Path(model))
    started, used = time.perf_counter(), cpu_seconds()
    counts = prepare(data, {"data.sources.0.dataset": [Path(rows)]}, renderer, length, 0, Path(out))
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds() - used,
        "tokens": counts.train.tokens + counts.heldout.tokens,
    }


def peer(interpreter: Path, asked: dict[str, Any]) -> dict[str, Any]:
    command = [str(interpreter), str(Path(__file__).parent / "prepare_peer.py")]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{asked['which']} failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{asked['which']}: {found}", file=sys.stderr, flush=True)
    return found


def plans(folder: Path, store: Path) -> dict[str, float]:
    """Seconds of the command, Python's start and imports included."""
    seconds = {}
    for name in ("plan_seconds_first", "plan_seconds_again"):
        started = time.perf_counter()
        command = [sys.executable, "-m", "rayloom", "plan", str(folder / "job.yaml")]
        subprocess.run(command, env=os.environ | {"RAYLOOM_STORE": str(store)}, check=True, capture_output=True)
        seconds[name] = round(time.perf_counter() - started, 2)
    return seconds


def starts(folder: Path, store: Path) -> dict[str, float]:
    """Seconds of workers from their first line to their first step: imports, rows, model and optimiser.

    Of the first run, which prepares the rows before it has workers; of one with another learning rate; and the longest
    among a search's trials.
    """
    (folder / "search.yaml").write_text(SEARCH)
    asked = {
        "first_start_seconds": ("job.yaml", ("num_steps=1",)),
        "second_start_seconds": ("job.yaml", ("num_steps=1", "learning_rate=2e-3")),
        "trial_start_seconds": ("search.yaml", ()),
    }
    found = {}
    for name, (file, overrides) in asked.items():
        artifact, _ = run(load_job(folder / file, overrides), Store(str(store)))
        logs = [list(read_log(log)) for log in artifact.path.rglob("metrics.jsonl")]
        found[name] = max(event["start_seconds"] for log in logs for event in log if event["event"] == "device")
    return found


if __name__ == "__main__":
    main()
