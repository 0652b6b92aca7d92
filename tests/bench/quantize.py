"""Tokens per second of a quantised model beside the same model in bf16: `make bench-quantize`.

INT8 without the output head, as it is by default, and with it. All engines are up at once, each in a process of its own
with the arguments and environment of a served replica, and take turns; medians of the rounds are compared: on one core,
which is a replica's default, and on all of them. Prints a table and, last, one JSON object. With --save, also writes it
to results/.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hardware import hardware
from results_file import save

from rayloom.export.quality.engine_process import engines, in_turns
from rayloom.specs.export import Speed

BATCHES = (1, 8, 32)
JOBS = Path(__file__).parents[2] / "jobs" / "quickstart"


def measure(models: dict[str, Path], num_cores: int, speed: Speed) -> dict[int, dict[str, float]]:
    """Median tokens per second by batch and model."""
    with engines(models, speed, num_cores) as running:
        found = {batch: in_turns(running, speed.model_copy(update={"batch_sequences": batch})) for batch in BATCHES}
    return {batch: {name: statistics.median(runs) for name, runs in each.items()} for batch, each in found.items()}


def models_in(folder: Path) -> dict[str, Path]:
    """SmolLM2 as the quickstart imports it, and the same weights in each scheme."""
    from rayloom.artifacts.store import Store
    from rayloom.dispatch import load_job, run
    from rayloom.export.model_folder import ModelFolder
    from rayloom.export.quantize import write_quantized
    from rayloom.specs.export import Int8Scheme

    bf16 = run(load_job(JOBS / "import-smollm2.yaml"), Store.beside(JOBS))[0].path
    found = {"bf16": bf16}
    for name, with_head in (("int8", False), ("int8_head", True)):
        # Which numbers the weights hold does not change the speed, so nothing is calibrated.
        scheme = Int8Scheme(type="int8", smoothing=None, head=with_head)
        found[name] = folder / name
        write_quantized(ModelFolder.of(bf16), scheme, None, found[name])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write the result to tests/bench/results/")
    options = parser.parse_args()
    speed = Speed(batch_sequences=max(BATCHES), rounds=options.rounds)
    cores = sorted({1, len(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        models = models_in(Path(folder))
        found = {num_cores: measure(models, num_cores, speed) for num_cores in cores}
    for num_cores, batches in found.items():
        for batch, rates in batches.items():
            shown = ", ".join(f"{name} {rate:,.0f} tokens/s" for name, rate in rates.items())
            print(f"cores {num_cores}, batch {batch:3}: {shown}")
    result: dict[str, Any] = {
        key + suffix: round(found[num_cores][max(BATCHES)][name] / found[num_cores][max(BATCHES)]["bf16"], 3)
        for key, name in (("int8_speedup", "int8"), ("int8_head_speedup", "int8_head"))
        for suffix, num_cores in (("", 1), ("_all_cores", cores[-1]))
    }
    result |= {
        "tokens_per_second": {
            f"{name}_batch_{batch}_cores_{num_cores}": round(rate, 1)
            for num_cores, batches in found.items()
            for batch, rates in batches.items()
            for name, rate in rates.items()
        },
        "rounds": options.rounds,
        "prompt_tokens": speed.prompt_tokens,
        "new_tokens": speed.new_tokens,
        "hardware": hardware(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if options.save:
        save("quantize", result)
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
