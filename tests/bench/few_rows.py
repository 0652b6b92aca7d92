"""One task at 0, 16, 100 and 1,000 rows, by every way that recipes/few-rows has: `make bench-few-rows`.

Prompts alone (zero shots, 4 and 16 shots with their spread, the nearest; calibrated and not), the prompt trained by
LoRA with and without demonstrations, and a head of its own by LoRA and with all weights: all on the same held-out
reviews, in a process each, without Ray. Imports what is missing. Passes over the rows are such that every size has
enough steps. Killed and called again it goes on: what was measured is kept under `.rayloom/bench-few-rows`. Prints a
table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "platform"))

from hardware import hardware
from results_file import save

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "jobs/recipes/few-rows"
EPOCHS = {16: 20, 100: 8, 1000: 2}
"""Passes over so many rows: 40, 100 and 250 steps of eight rows."""
DEMONSTRATIONS = "task.prompt.demonstrations={num_rows: 2}"
TRAINED = {
    "prompt, LoRA": ("train-prompted", []),
    "prompt with demonstrations, LoRA": ("train-prompted", [DEMONSTRATIONS]),
    "head, LoRA": ("train-lora", []),
    "head, all weights": ("train", []),
}
NUM_CHECKS = 4
"""Of prompts.yaml."""
KEPT = ("score", "interval", "spread", "lowest", "highest", "uncalibrated_score", "uncalibrated_spread", "num_rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", default=["prompts", *TRAINED], choices=["prompts", *TRAINED])
    parser.add_argument("--rows", nargs="+", type=int, default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--heldout", type=int, default=1000, help="rows that all are measured on")
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="applied to every training job"
    )
    parser.add_argument("--model", default="artifact:smollm2")
    parser.add_argument("--save", action="store_true", help="also write the result under tests/bench/results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        way, number = options.one.rsplit("@", 1)
        print(json.dumps((asked if way == "prompts" else trained)(way, int(number), options)))
        return
    if options.model == "artifact:smollm2":
        _import()
    result: dict[str, Any] = {"hardware": hardware(), "date": time.strftime("%Y-%m-%d"), "heldout": options.heldout}
    asked_checks = range(NUM_CHECKS) if "prompts" in options.ways else ()
    result["prompts"] = {}
    for number in asked_checks:
        result["prompts"] |= in_own_process("prompts", number, options)
    result["trained"] = {
        way: {str(rows): in_own_process(way, rows, options) for rows in options.rows}
        for way in options.ways
        if way in TRAINED
    }
    if options.save:
        save("few-rows", result)
    for name, found in result["prompts"].items():
        print(
            f"{name:<34} {found['score']:.3f}  ± {found['spread']:.3f}  uncalibrated {found.get('uncalibrated_score')}"
        )
    for way, by_rows in result["trained"].items():
        print(f"{way:<34} " + "  ".join(f"{rows} rows {found['score']:.3f}" for rows, found in by_rows.items()))
    print(json.dumps(result))


def _import() -> None:
    from rayloom.artifacts.store import Store
    from rayloom.dispatch import load_job, run

    for file in (ROOT / "jobs/recipes/imports/movie-reviews.yaml", ROOT / "jobs/quickstart/import-smollm2.yaml"):
        run(load_job(file, ()), Store.beside(file.parent))


def in_own_process(way: str, number: int, options: argparse.Namespace) -> dict[str, Any]:
    """A process for each, so that memory and threads are its own. `number`: of the check, or rows to train on."""
    settings = [options.model, options.heldout, *options.set]
    kept = ROOT / ".rayloom/bench-few-rows" / f"{zlib.crc32(json.dumps([way, number, settings]).encode()):08x}.json"
    if not kept.exists():
        command = [sys.executable, str(Path(__file__)), *sys.argv[1:], "--one", f"{way}@{number}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(done.stdout.splitlines()[-1])
    found: dict[str, Any] = json.loads(kept.read_text())
    print(f"{way}, {number}: {json.dumps(found)[:300]}", file=sys.stderr, flush=True)
    return found


def asked(_: str, number: int, options: argparse.Namespace) -> dict[str, Any]:
    """A check of prompts.yaml, by its name."""
    from rayloom.artifacts.store import Store
    from rayloom.dispatch import load_job, resolve
    from rayloom.evaluate.checks.registry import cases
    from rayloom.models.responders.subject import subjects

    overrides = [f"model={options.model}"]
    overrides += [f"checks.{check}.data.heldout_rows={options.heldout}" for check in range(NUM_CHECKS)]
    file = load_job(RECIPES / "prompts.yaml", overrides)
    store = Store.beside(file.directory)
    resolved = resolve(file, store)
    spec: Any = resolved.spec
    (subject,) = subjects(resolved.parents, store)
    check, case = list(cases(spec, resolved.parents, subject, store))[number]
    started = time.perf_counter()
    metrics = check.measure(case).metrics
    found = {name: metrics[name] for name in KEPT if name in metrics}
    return {case.spec.name: found | {"seconds": round(time.perf_counter() - started, 1)}}


def trained(way: str, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """One training run, and the accuracy of its result on the held-out rows."""
    from recipe_training import trained as trained_recipe

    name, further = TRAINED[way]
    overrides = [f"base={options.model}", f"data.train_rows={rows}", f"num_epochs={EPOCHS[rows]}"]
    overrides += [f"data.heldout_rows={options.heldout}", *further, *options.set]
    with trained_recipe(RECIPES / f"{name}.yaml", overrides) as found:
        kept = {name: found.metrics[name] for name in KEPT if name in found.metrics}
    return kept | {"seconds_training": round(found.seconds, 1)}


if __name__ == "__main__":
    main()
