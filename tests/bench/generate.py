"""Generating beside vLLM's own offline engine, and the ROUGE-L filter among 100,000 rows: `make bench-generate`.

Both engines are up at once, each in an actor of its own with the same arguments, and take turns on the same prompts
with the same seeds: ours with rendering, Ray and the journal, vLLM's by one call of `LLM.generate` on ready token ids.
Prints, last, one JSON object. With --save, also writes it to results/.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from hardware import hardware
from results_file import save
from rouge_score.rouge_scorer import RougeScorer

from rayloom.artifacts.store import Store
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.dispatch import load_job, run
from rayloom.generate.asks import Ask, Rounds
from rayloom.generate.run import Actors
from rayloom.generate.writers import Asking, VllmWriter
from rayloom.models.responders.subject import Subject
from rayloom.models.vllm_process import vllm_environment
from rayloom.observe.ray_session import connect
from rayloom.score.rouge_index import RougeIndex, rouge_words
from rayloom.specs.generate import GenerateSpec

JOBS = Path(__file__).parents[2] / "jobs" / "quickstart"
THRESHOLD = 0.7
NUM_KEPT, NUM_COMPARED, NUM_CANDIDATES = 100_000, 1000, 200
SHARE_OF_OWN_WORDS = 0.35
"""Of a made instruction, words of the real one whose length it has; the others come from any real one."""


class Peer(VllmWriter):
    """The same engine, asked as vLLM's documentation does."""

    def generate(self, asks: Sequence[Ask]) -> tuple[int, float]:
        """Tokens that were written, and seconds."""
        prompts: Any = [{"prompt_token_ids": self.tokens(ask.prompt)} for ask in asks]
        parameters = [self.parameters(ask) for ask in asks]
        started = time.perf_counter()
        outputs = self.llm.generate(prompts, parameters, use_tqdm=False)
        seconds = time.perf_counter() - started
        return sum(len(output.outputs[0].token_ids) for output in outputs), seconds


def speeds(instructions: Sequence[str], rounds: int, batch: int) -> dict[str, list[float]]:
    """Tokens per second of both sides, round by round."""
    store = Store.beside(JOBS)
    model = run(load_job(JOBS / "import-smollm2.yaml"), store)[0]
    subject = Subject.of("model", model, store)
    engine = {
        "type": "model", "model": "artifact:smollm2", "max_length_tokens": 512, "kv_cache_bytes": 1 << 28,
        "micro_batch_sequences": batch, "cpus_per_worker": len(os.sched_getaffinity(0)),
    }  # fmt: skip
    task = {"type": "answers", "data": {"dataset": "artifact:instructions"}}
    values = {"engine": engine, "sampling": {"max_new_tokens": 64}, "task": task}
    spec = GenerateSpec.model_validate({"kind": "generate", "name": "bench"} | values)
    connect()
    assert spec.engine.type == "model"
    asking = Asking(spec.name, spec.sampling)
    ours = Actors(subject, spec.engine, asking)
    environment = vllm_environment(spec.engine.cpus_per_worker, in_one_process=True)
    peer = ray.remote(Peer).options(num_cpus=1, runtime_env={"env_vars": environment}).remote(
        subject, spec.engine, asking
    )  # fmt: skip
    found: dict[str, list[float]] = {"rayloom": [], "vllm": []}
    with tempfile.TemporaryDirectory() as folder:
        work = Rounds(WorkCopy(Store(folder), "bench", "1", "rounds"))
        for number in range(rounds + 1):
            # Other prompts each time, so that no side finds a prefix in its cache.
            part = instructions[number * batch * 2 : (number + 1) * batch * 2]
            asks = [Ask(f"{number}/answer/{place}", text, "answer") for place, text in enumerate(part)]
            for side in ("rayloom", "vllm") if number % 2 else ("vllm", "rayloom"):
                if side == "vllm":
                    tokens, seconds = ray.get(peer.generate.remote(asks))
                else:
                    started = time.perf_counter()
                    answers = work.journal(number).answered(asks, ours.write)
                    seconds = time.perf_counter() - started
                    tokens = sum(answer.num_tokens for answer in answers)
                if number:  # the first round warms both up
                    found[side].append(tokens / seconds)
                print(f"round {number}, {side}: {tokens} tokens in {seconds:.1f} s")
    ours.close()
    return found


def filter_times(instructions: Sequence[str]) -> dict[str, Any]:
    """Milliseconds a candidate among 100,000 instructions, and whether 1,000 give what comparing with each gives."""
    dice = random.Random(0)
    words = [word for text in instructions for word in rouge_words(text)]

    def made() -> str:
        own = rouge_words(dice.choice(instructions))
        return " ".join(word if dice.random() < SHARE_OF_OWN_WORDS else dice.choice(words) for word in own)

    kept = [made() for _ in range(NUM_KEPT)]
    candidates = [made() for _ in range(NUM_CANDIDATES // 2)] + list(instructions[: NUM_CANDIDATES // 2])
    index, small = RougeIndex(THRESHOLD), RougeIndex(THRESHOLD)
    for text in kept:
        index.add(text)
    times = []
    for text in candidates:
        started = time.perf_counter()
        index.most_similar(text)
        times.append(time.perf_counter() - started)
    for text in kept[:NUM_COMPARED]:
        small.add(text)
    plain = RougeScorer(["rougeL"], tokenizer=_SameWords())
    is_equal = True
    for text in candidates[:20] + kept[: NUM_CANDIDATES // 4]:
        scores = [plain.score(one, text)["rougeL"].fmeasure for one in kept[:NUM_COMPARED]]
        best, found = max(range(NUM_COMPARED), key=scores.__getitem__), small.most_similar(text)
        expected = best if scores[best] >= THRESHOLD - 1e-9 else None
        is_equal &= expected == (None if found is None else found.number)
    return {
        "filter_milliseconds": round(1000 * statistics.mean(times), 3),
        "filter_milliseconds_median": round(1000 * statistics.median(times), 3),
        "filter_is_equal_on_1000": is_equal,
    }


class _SameWords:
    def tokenize(self, text: str) -> list[str]:
        return rouge_words(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--save", action="store_true", help="write the result to tests/bench/results/")
    options = parser.parse_args()
    rows = run(load_job(JOBS / "import-instructions.yaml"), Store.beside(JOBS))[0].path
    file = next(iter(rows.rglob("alpaca_en_demo.json")))
    instructions = [row["instruction"] for row in json.loads(file.read_text(encoding="utf-8"))]
    filters = filter_times(instructions)
    print(filters)
    found = speeds(instructions, options.rounds, options.batch)
    rates = {side: statistics.median(values) for side, values in found.items()}
    result = {
        "ratio_vs_vllm": round(rates["rayloom"] / rates["vllm"], 3),
        **filters,
        "tokens_per_second": {side: round(rate, 1) for side, rate in rates.items()},
        "rounds": {side: [round(rate, 1) for rate in values] for side, values in found.items()},
        "batch_sequences": options.batch,
        "num_kept": NUM_KEPT,
        "hardware": hardware(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if options.save:
        save("generate", result)
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
