"""Tokens per second of a quantised model beside the same model in bf16: `make bench-quantize`.

Both engines are up at once, each in a process of its own with the arguments and environment of a served replica, and
take turns; medians of the rounds are compared: on one core, which is a replica's default, and on all of them. Prints a
table and, last, one JSON object. With --save, also writes it to results/.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hardware import hardware

BATCHES = (1, 8, 32)
NEW_TOKENS = 64
PROMPT_TOKENS = 64  # a short question, with the system prompt of its template
JOBS = Path(__file__).parents[2] / "jobs" / "quickstart"
RESULTS = Path(__file__).parent / "results"


def serve_turns(model: str, num_cores: int, turns: Connection) -> None:
    """In an engine's process: loads the model, then answers each batch size with the seconds that it took."""
    from rayloom.serve.engine import EngineSettings, engine_arguments, environment
    from rayloom.specs.serve import Engine, KvCache, ServedModel

    # A prefix that is found would be a prompt that is not computed.
    cache = KvCache(size_bytes=1 << 29, prefix_caching=False)
    replica = Engine(
        max_model_length_tokens=512, max_sequences=max(BATCHES), cpus_per_replica=num_cores, kv_cache=cache
    )
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])
    os.environ |= environment(replica)
    # Engines write to standard output; the last line there is this program's own.
    os.dup2(2, 1)
    from vllm import LLM, SamplingParams

    served = EngineSettings(ServedModel(name="model", model=model, engine=replica), "", "", "")
    engine = LLM(model=model, **engine_arguments(served))
    greedy = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, min_tokens=NEW_TOKENS, ignore_eos=True)
    turns.send("ready")
    turn = 0
    while (batch := turns.recv()) is not None:
        turn += 1
        # Other tokens each time, so that no prefix is found in the cache.
        prompts = [
            {
                "prompt_token_ids": [
                    1000 + (turn * 7919 + row * 104729 + place * 31) % 40000 for place in range(PROMPT_TOKENS)
                ]
            }
            for row in range(batch)
        ]
        started = time.perf_counter()
        engine.generate(prompts, greedy, use_tqdm=False)
        turns.send(time.perf_counter() - started)


class Turns:
    """One engine in its process."""

    def __init__(self, model: Path, num_cores: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.turns, theirs = context.Pipe()
        self.process = context.Process(target=serve_turns, args=(str(model), num_cores, theirs))
        self.process.start()
        theirs.close()
        assert self.turns.recv() == "ready"

    def tokens_per_second(self, batch: int) -> float:
        self.turns.send(batch)
        return batch * NEW_TOKENS / float(self.turns.recv())

    def stop(self) -> None:
        self.turns.send(None)
        self.process.join()


@contextmanager
def engines(models: dict[str, Path], num_cores: int) -> Iterator[dict[str, Turns]]:
    started = {name: Turns(model, num_cores) for name, model in models.items()}
    try:
        yield started
    finally:
        for engine in started.values():
            engine.stop()


def measure(models: dict[str, Path], num_cores: int, rounds: int) -> dict[int, dict[str, float]]:
    """Median tokens per second by batch and model."""
    with engines(models, num_cores) as running:
        for engine in running.values():
            engine.tokens_per_second(max(BATCHES))
        found = {batch: _turns(running, batch, rounds) for batch in BATCHES}
    return {batch: {name: statistics.median(runs) for name, runs in each.items()} for batch, each in found.items()}


def _turns(running: dict[str, Turns], batch: int, rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in running}
    for number in range(rounds):
        order: Sequence[str] = list(running) if number % 2 == 0 else list(running)[::-1]
        for name in order:
            found[name].append(running[name].tokens_per_second(batch))
    return found


def models_in(folder: Path) -> dict[str, Path]:
    """SmolLM2 as the quickstart imports it, and the same weights in each scheme."""
    from rayloom.artifacts.store import Store
    from rayloom.dispatch import load_job, run
    from rayloom.export.model_folder import ModelFolder
    from rayloom.export.quantize import write_quantized
    from rayloom.specs.export import Int8Scheme

    bf16 = run(load_job(JOBS / "import-smollm2.yaml"), Store.beside(JOBS))[0].path
    # Which numbers the weights hold does not change the speed, so nothing is calibrated.
    write_quantized(ModelFolder.of(bf16), Int8Scheme(type="int8", smoothing=None), None, folder / "int8")
    return {"bf16": bf16, "int8": folder / "int8"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write the result to tests/bench/results/")
    options = parser.parse_args()
    cores = sorted({1, len(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        models = models_in(Path(folder))
        found = {num_cores: measure(models, num_cores, options.rounds) for num_cores in cores}
    for num_cores, batches in found.items():
        for batch, rates in batches.items():
            shown = ", ".join(f"{name} {rate:,.0f} tokens/s" for name, rate in rates.items())
            print(f"cores {num_cores}, batch {batch:3}: {shown}")
    speedups = {n: batches[max(BATCHES)]["int8"] / batches[max(BATCHES)]["bf16"] for n, batches in found.items()}
    result: dict[str, Any] = {
        "int8_speedup": round(speedups[1], 3),
        "int8_speedup_all_cores": round(speedups[cores[-1]], 3),
        "tokens_per_second": {
            f"{name}_batch_{batch}_cores_{num_cores}": round(rate, 1)
            for num_cores, batches in found.items()
            for batch, rates in batches.items()
            for name, rate in rates.items()
        },
        "rounds": options.rounds,
        "prompt_tokens": PROMPT_TOKENS,
        "new_tokens": NEW_TOKENS,
        "hardware": hardware(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"quantize-{result['hardware']}-{result['date']}.json").write_text(
            json.dumps(result, indent=2) + "\n"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
