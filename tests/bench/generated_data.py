"""What data that models made are worth: `make bench-generated-data`.

tasks: Self-Instruct by jobs/recipes/generate/tasks.yaml, but from 175 of Alpaca's rows (as many seeds as in the paper);
LoRA on what was kept; loss and written answers on 100 other rows of Alpaca, before and after. labels: a chat model says
by the probabilities of two words whether sentences about films are positive; an encoder learns from its labels, and
from 100, 500 and all of people's labels for the same sentences, by as many steps; accuracy on 1,000 sentences that none
of them saw. The last line is one JSON object; with --save, what was measured earlier that day is kept beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from continual import texts
from hardware import hardware
from results_file import save

from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, run

ROOT = Path(__file__).parents[2]
GENERATE = ROOT / "jobs/recipes/generate"
NUM_SEEDS, NUM_HELDOUT_TASKS = 175, 100
NUM_UNLABELLED, NUM_HELDOUT_TEXTS = 2000, 1000
HUMAN_LABELS = (100, 500, NUM_UNLABELLED)
NUM_STEPS = 100
LABELS = {True: "positive", False: "negative"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["labels", "tasks"], choices=["labels", "tasks"])
    parser.add_argument("--store", type=Path, default=ROOT / ".rayloom", help="where models and data are, or come to")
    parser.add_argument("--kept", type=int, default=1000, help="rows that Self-Instruct is to keep")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the classifiers")
    parser.add_argument("--save", action="store_true", help="also write the result under tests/bench/results")
    options = parser.parse_args()
    os.environ["RAYLOOM_STORE"] = str(options.store)
    bench = Bench(Store(str(options.store)))
    result: dict[str, Any] = {"hardware": hardware(), "date": time.strftime("%Y-%m-%d")}
    result |= {part: {"labels": labels, "tasks": tasks}[part](bench, options) for part in options.parts}
    if options.save:
        save("generated-data", result)
    print(json.dumps(result))


class Bench:
    """The store, and a folder for the rows of both sides."""

    def __init__(self, store: Store) -> None:
        self.store, self.folder = store, Path(store.uri) / "jobs" / "generated-data"

    def run(self, file: Path, *overrides: str) -> Artifact:
        return run(load_job(file, overrides), self.store)[0]

    def rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> str:
        """Writes a folder with the rows, and gives its path for a job file."""
        file = self.folder / name / "rows.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return str(file.parent)


def read(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:  # not splitlines: texts hold other separators
        return [json.loads(line) for line in lines]


def labels(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Accuracy by a teacher's labels beside people's."""
    bench.run(ROOT / "jobs/quickstart/import-smollm2.yaml")
    bench.run(ROOT / "jobs/recipes/imports/minilm.yaml")
    reviews = bench.run(ROOT / "jobs/recipes/imports/movie-reviews.yaml")
    human = dict(texts("reviews", reviews.path))
    chosen = random.Random(0).sample(sorted(human), NUM_UNLABELLED + NUM_HELDOUT_TEXTS)
    unlabelled, heldout = chosen[:NUM_UNLABELLED], chosen[NUM_UNLABELLED:]
    source = bench.rows("unlabelled", ({"text": text} for text in unlabelled))
    started = time.perf_counter()
    teacher = bench.run(GENERATE / "labels.yaml", f"data={source}", "files=rows.jsonl")
    seconds = time.perf_counter() - started
    by_teacher = {row["text"]: row["labels"][0] for row in read(teacher.path / "predictions.jsonl")}
    right = statistics.fmean(label == LABELS[human[text]] for text, label in by_teacher.items())
    trained_on = {"teacher": by_teacher} | {
        f"human_{number}": {text: LABELS[human[text]] for text in unlabelled[:number]} for number in HUMAN_LABELS
    }
    asked = bench.rows("heldout", ({"text": text} for text in heldout))
    expected = [LABELS[human[text]] for text in heldout]
    accuracy = {
        name: [predicted_right(bench, name, rows, asked, expected, seed) for seed in options.seeds]
        for name, rows in trained_on.items()
    }
    return {
        "teacher_labelled": len(by_teacher),
        "teacher_labels": {label: list(by_teacher.values()).count(label) for label in LABELS.values()},
        "teacher_labels_right": round(right, 4),
        "teacher_seconds": round(seconds, 1),
        "accuracy": {name: round(statistics.fmean(values), 4) for name, values in accuracy.items()},
        "accuracy_by_seed": accuracy,
    }


def predicted_right(
    bench: Bench, name: str, rows: Mapping[str, str], asked: str, expected: list[str], seed: int
) -> float:
    """The accuracy of the recipe's classifier after these rows."""
    source = bench.rows(name, ({"text": text, "label": label} for text, label in rows.items()))
    classifier = f"reviews-by-{name.replace('_', '-')}-{seed}"
    overrides = {
        "name": classifier, "data.sources.0.dataset": source, "data.sources.0.files": "rows.jsonl",
        "data.sources.0.read.label": "label", "data.heldout_rows": 20, "num_epochs": "null", "num_steps": NUM_STEPS,
        "global_batch_tokens": 2048, "seed": seed,
    }  # fmt: skip
    bench.run(GENERATE / "classifier.yaml", *(f"{path}={value}" for path, value in overrides.items()))
    job = bench.folder / f"predict-{classifier}.yaml"
    values = {"kind": "predict", "name": f"{classifier}-said", "model": f"artifact:{classifier}", "data": asked}
    job.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    said = [row["labels"][0] for row in read(bench.run(job).path / "predictions.jsonl")]
    found = statistics.fmean(one == wanted for one, wanted in zip(said, expected, strict=True))
    print(f"{classifier}: {found}", file=sys.stderr, flush=True)
    return round(found, 4)


def tasks(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Self-Instruct, and what it changes on instructions that nobody generated."""
    bench.run(ROOT / "jobs/quickstart/import-smollm2.yaml")
    instructions = bench.run(ROOT / "jobs/quickstart/import-instructions.yaml")
    rows = json.loads(next(instructions.path.rglob("alpaca_en_demo.json")).read_text(encoding="utf-8"))
    rows = random.Random(0).sample([row for row in rows if len(row["output"]) < 1000], NUM_SEEDS + NUM_HELDOUT_TASKS)
    seeds = bench.rows("seeds", rows[:NUM_SEEDS])
    heldout = bench.rows("heldout-tasks", rows[NUM_SEEDS:])
    started = time.perf_counter()
    made = bench.run(
        GENERATE / "tasks.yaml",
        *("task.seeds.dataset=" + seeds, "task.seeds.files=rows.jsonl", f"task.num_rows={options.kept}"),
    )
    seconds = time.perf_counter() - started
    bench.run(GENERATE / "train.yaml")
    checks = [
        {"type": "heldout_loss", "name": "loss", "rows_of": heldout},
        {"type": "written", "name": "written", "rows_of": heldout, "cpus_per_worker": 2,
         "generation": {"engine": "vllm", "max_new_tokens": 160}},
    ]  # fmt: skip
    job = bench.folder / "evaluate-tasks.yaml"
    values = {"kind": "evaluate", "name": "own-tasks-before-and-after", "model": "artifact:own-tasks-lora"}
    job.write_text(json.dumps(values | {"baseline": "artifact:smollm2", "checks": checks}), encoding="utf-8")
    measured = bench.run(job).manifest.metrics
    return {"generated": made.manifest.metrics, "generating_seconds": round(seconds, 1), "measured": measured}


if __name__ == "__main__":
    main()
