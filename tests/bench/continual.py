"""What three tasks, learned one after the other, leave of each other: `make bench-continual`.

An encoder learns whether a film review is positive, whether an e-mail is unwanted and whether a tweet names somebody or
something, with one head (yes or no), plainly and by every value of `retain` and replayed rows, for several seeds. The
matrix is that of `kind: evaluate` with `earlier`. `forgetting_ratio`: what the best method forgets beside plain
training; `new_task_points_lost`: by how many points of accuracy it is worse on a task that it has just learned. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "platform"))

from hardware import hardware
from results_file import save

from rayloom.artifacts.build import Build, ResolvedJob, build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, run
from rayloom.evaluate.run import run as evaluate
from rayloom.kinds import KINDS
from rayloom.specs.base import JobSpec
from rayloom.specs.evaluate import EvaluateSpec
from rayloom.specs.ingest import ImportSpec
from rayloom.train.__main__ import main as train

ROOT = Path(__file__).parents[2]
TASKS = ("reviews", "spam", "tweets")
IMPORTS = {"reviews": "movie-reviews", "spam": "spam-assassin", "tweets": "tweets-ner"}
LENGTH, BATCH_ROWS = 48, 16
REPLAYED_ROWS = 60
METHODS: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "ewc": [{"type": "ewc", "strength": 3000.0}],
    "l2_sp": [{"type": "l2_sp", "strength": 0.05}],
    "old_model": [{"type": "old_model", "weight": 0.3, "temperature": 2.0}],
    "replay": [],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=ROOT / ".rayloom", help="where models and data are, or come to")
    parser.add_argument("--base", default="minilm", help="a model of the store")
    parser.add_argument("--rows", type=int, default=320, help="to train on, of each task")
    parser.add_argument("--heldout", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--save", action="store_true", help="also write the result under tests/bench/results")
    options = parser.parse_args()
    os.environ["RAYLOOM_STORE"] = str(options.store)
    store = Store(str(options.store))
    for name in (*(["minilm"] if options.base == "minilm" else []), *IMPORTS.values()):
        run(load_job(ROOT / f"jobs/recipes/imports/{name}.yaml"), store)
    for task in TASKS:
        published(task, store, options)
    found: dict[str, list[dict[str, Any]]] = {method: [] for method in options.methods}
    for seed in options.seeds:
        for method in options.methods:
            measured = sequence(method, seed, store, options)
            found[method].append(measured)
            print(f"{method}, seed {seed}: {measured}", file=sys.stderr, flush=True)
    result = {"hardware": hardware(), "date": time.strftime("%Y-%m-%d"), "base": options.base, "seeds": options.seeds}
    result |= {"rows": options.rows, "epochs": options.epochs, "length_tokens": LENGTH} | compared(found)
    if options.save:
        save("continual" if options.base == "minilm" else f"continual-{options.base}", result)
    print(json.dumps(result))


def compared(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means over seeds, and the method that forgets least among those that lose at most a point on new tasks."""
    table = {
        method: {
            "average": round(statistics.fmean(one["average"] for one in runs), 4),
            "forgetting": round(statistics.fmean(one["forgetting"] for one in runs), 4),
            "backward_transfer": round(statistics.fmean(one["backward_transfer"] for one in runs), 4),
            "new_tasks": round(statistics.fmean(new_tasks(one["scores"]) for one in runs), 4),
            "scores": [one["scores"] for one in runs],
        }
        for method, runs in found.items()
    }
    plain = table["plain"]
    lost = {method: 100 * (plain["new_tasks"] - row["new_tasks"]) for method, row in table.items()}
    others = [method for method in table if method != "plain"]
    best = min(others, key=lambda method: (lost[method] > 1, table[method]["forgetting"]))
    return {
        "methods": table,
        "best": best,
        "forgetting_ratio": round(table[best]["forgetting"] / plain["forgetting"], 4),
        "new_task_points_lost": round(lost[best], 2),
    }


def new_tasks(scores: list[list[float]]) -> float:
    """The mean score of the later tasks, each just after its own stage."""
    return statistics.fmean(scores[number][number] for number in range(1, len(scores)))


def sequence(method: str, seed: int, store: Store, options: argparse.Namespace) -> dict[str, Any]:
    """The three stages, and their matrix. The first is the same for all methods of a seed."""
    stages: list[Artifact] = []
    for number, task in enumerate(TASKS):
        base = stages[-1].manifest.name if stages else options.base
        name = f"{task}-{method}-{seed}" if stages else f"{task}-first-{seed}"
        stages.append(trained(name, base, number, method, seed, store, options))
    checks = [
        {"type": "task", "name": task, "rows_of": f"artifact:{made.id}"}
        for task, made in zip(TASKS, stages, strict=True)
    ]
    named = [f"artifact:{made.id}" for made in stages]
    values = {"kind": "evaluate", "name": f"stages-{method}-{seed}", "checks": checks, "micro_batch_sequences": 32}
    spec = EvaluateSpec.model_validate(values | {"model": named[-1], "earlier": named[:-1]})
    parents = dict(zip(spec.stages, stages, strict=True))
    parents |= {f"checks.{number}.rows_of": made for number, made in enumerate(stages)}
    job = ResolvedJob(spec, KINDS["evaluate"].version, parents, ROOT)
    artifact = build(job, store, evaluate)[0]  # type: ignore[arg-type]
    measured: dict[str, Any] = artifact.manifest.metrics["sequence"]
    return measured


def trained(
    name: str, base: str, number: int, method: str, seed: int, store: Store, options: argparse.Namespace
) -> Artifact:
    sources = [{"dataset": f"artifact:yes-no-{TASKS[number]}", "read": {"type": "table"}}]
    if method == "replay":
        sources += [
            {"dataset": f"artifact:yes-no-{task}", "read": {"type": "table"}, "limit_rows": REPLAYED_ROWS}
            for task in TASKS[:number]
        ]
    values = {
        "kind": "train",
        "name": name,
        "base": f"artifact:{base}",
        "task": {"type": "text_classification", "labels": ["no", "yes"]},
        "data": {
            "type": "labelled",
            "sources": sources,
            "heldout_rows": options.heldout,
            "length_policy": "truncate",
            "max_length_policy_share": 1.0,
        },
        "retain": METHODS[method] if number else [],
        "sequence_length_tokens": LENGTH,
        "micro_batch_sequences": BATCH_ROWS,
        "global_batch_tokens": LENGTH * BATCH_ROWS,
        "num_epochs": options.epochs,
        "learning_rate": 2e-4,
        "schedule": {"type": "linear", "warmup_steps": 5, "final_share": 0},
        "optimizer": {"type": "adamw", "weight_decay": 0.01, "beta2": 0.999},
        "seed": seed,
    }
    if method == "ewc" or not number:
        values["fisher"] = {"rows": 100}
    file = options.store / "jobs" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(values))
    if train([str(file)]):
        raise SystemExit(f"{file} failed")
    return store.open(store.resolve(f"artifact:{name}"))


def published(task: str, store: Store, options: argparse.Namespace) -> Artifact:
    """As many rows of a task with yes as with no."""

    def stage(_: JobSpec, made: Build) -> Outcome:
        by_label: dict[str, list[str]] = {"yes": [], "no": []}
        for text, is_so in texts(task, store.open(store.resolve(f"artifact:{IMPORTS[task]}")).path):
            by_label["yes" if is_so else "no"].append(text)
        each = (options.rows + options.heldout) // 2
        dice = random.Random(0)
        rows = [
            {"text": text, "label": label}
            for label, found in by_label.items()
            for text in dice.sample(sorted(set(found)), each)
        ]
        dice.shuffle(rows)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (made.directory / "rows.jsonl").write_text(lines, encoding="utf-8")
        return Outcome("dataset")

    source = {"type": "folder", "path": f"/{task}-{options.rows}-{options.heldout}"}
    values = {"kind": "import", "name": f"yes-no-{task}", "source": source, "content": {"type": "dataset"}}
    return build(ResolvedJob(ImportSpec.model_validate(values | {"licence": "other"}), 1, {}, ROOT), store, stage)[0]


def texts(task: str, folder: Path) -> Iterator[tuple[str, bool]]:
    """Texts, and whether the answer is yes."""
    if task == "reviews":  # sentences of Rotten Tomatoes, which fit into a row
        csv.field_size_limit(10**9)
        (file,) = folder.rglob("*.csv")
        with file.open(encoding="utf-8", newline="") as opened:
            yield from ((row["text"], row["label"] == "1") for row in csv.DictReader(opened) if len(row["text"]) < 300)
    elif task == "spam":
        for file in sorted(folder.rglob("*.txt")):
            head, _, body = file.read_text(encoding="utf-8", errors="replace").partition("\n\n")
            subject = re.search(r"^Subject: (.*)$", head, re.MULTILINE)
            words = re.sub(r"<[^>]*>|\s+", " ", f"{subject[1] if subject else ''}. {body[:2000]}")[:400]
            if words.strip(". "):
                yield words, "spam" in file.parent.name
    else:
        (file,) = folder.rglob("ner.txt")
        for block in re.split(r"\n\s*\n", file.read_text(encoding="utf-8")):
            pairs = [line.split("\t") for line in block.splitlines() if "\t" in line]
            if pairs:
                yield " ".join(word for word, _ in pairs), any(tag != "O" for _, tag in pairs)


if __name__ == "__main__":
    main()
