"""A model asked by a prompt alone beside lm-evaluation-harness: `make bench-prompted`.

Film reviews, the same rows, template, demonstrations and weights for both, in one run: labels by likelihood, and labels
that the model writes. The harness computes both by transformers; Rayloom computes likelihoods by transformers, with the
beginning that all prompts share computed once, and writes by vLLM's offline engine. Rows a second are without loading:
of vLLM, the seconds of all rows less those of one row. The last line is one JSON object.
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

import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "platform"))

from hardware import hardware
from results_file import save

from rayloom.artifacts.store import Store
from rayloom.dispatch import load_job, resolve, run
from rayloom.evaluate.checks.prompted import _engine, _model, rows_of
from rayloom.evaluate.checks.registry import cases
from rayloom.evaluate.checks.task import judge
from rayloom.models.responders.subject import subjects

ROOT = Path(__file__).parents[2]
LABELS = ("negative", "positive")
COMMON: dict[str, Any] = {
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl", "fewshot": "shown.jsonl"}},
    "test_split": "test",
    "fewshot_split": "fewshot",
    "fewshot_config": {"sampler": "first_n"},
    "doc_to_text": "Review: {{text}}\nSentiment:",
    "target_delimiter": " ",
    "fewshot_delimiter": "\n\n",
}
TASKS: dict[str, dict[str, Any]] = {
    "likelihood": {
        "output_type": "multiple_choice",
        "doc_to_target": "{{label}}",
        "doc_to_choice": list(LABELS),
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
    "generated": {
        "output_type": "generate_until",
        "doc_to_target": "{{name}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
        "filter_list": [
            {
                "name": "label",
                "filter": [
                    {"function": "regex", "regex_pattern": r"(?i)\b(negative|positive)\b"},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [
            {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}
        ],
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="interpreter of an environment with lm-eval")
    parser.add_argument("--rows", type=int, default=200, help="tested rows")
    parser.add_argument("--shown", type=int, default=8, help="demonstrations before each")
    parser.add_argument("--batch", type=int, default=32, help="rows computed at once by either side")
    parser.add_argument("--parts", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm", help="what writes here")
    parser.add_argument("--save", action="store_true", help="also write the result under tests/bench/results")
    options = parser.parse_args()
    result: dict[str, Any] = {"hardware": hardware(), "date": time.strftime("%Y-%m-%d")}
    result |= {"threads": torch.get_num_threads(), "rows": options.rows, "demonstrations": options.shown}
    with tempfile.TemporaryDirectory() as name:
        result |= both_sides(Path(name), options)
    if options.save:
        save("prompted", result)
    print(json.dumps(result))


def both_sides(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Scores and rows a second of each part, and of the harness."""
    for name in ("imports/movie-reviews", "../quickstart/import-smollm2"):
        file = load_job(ROOT / f"jobs/recipes/{name}.yaml", ())
        run(file, Store.beside(file.directory))
    (folder / "job.yaml").write_text(json.dumps(job_of(options)))
    file = load_job(folder / "job.yaml", ())
    store = Store.beside(ROOT / "jobs/recipes")
    resolved = resolve(file, store)
    spec: Any = resolved.spec
    (subject,) = subjects(resolved.parents, store)
    ours: dict[str, dict[str, Any]] = {}
    for _, case in cases(spec, resolved.parents, subject, store):
        model = _model(case)
        tested, pool = rows_of(case)
        shown = model.demonstrations(tested, pool, 0, 0, options.batch)
        if not ours:
            write_tasks(folder, tested, shown[0])
        write = _engine(case, model)
        model.answers(tested[:1], shown[:1], options.batch, write=write)  # loads what it needs
        overhead = 0.0
        if write is not None:
            started = time.perf_counter()
            model.answers(tested[:1], shown[:1], options.batch, write=write)
            overhead = time.perf_counter() - started
        started = time.perf_counter()
        answers = model.answers(tested, shown, options.batch, write=write)
        seconds = time.perf_counter() - started - overhead
        judged = judge(case.spec.prompt.task, tested, [answer.prediction for answer in answers])
        right = [float(is_right) for is_right in judged.is_right]
        prompt = model.readable(tested[0], shown[0])
        ours[case.spec.name] = {"score": judged.metrics["score"], "seconds": seconds, "scores": right, "prompt": prompt}
        print(
            f"rayloom {case.spec.name}: {judged.metrics['score']:.4f}, {len(tested) / seconds:.1f} rows/s", flush=True
        )
    result: dict[str, Any] = {}
    for name, found in ours.items():
        result[name] = {"score": found["score"], "rows_per_second": round(options.rows / found["seconds"], 2)}
    if options.peer:
        result |= beside(ours, harness(folder, str(subject.base), options), options.rows)
    return result


def job_of(options: argparse.Namespace) -> dict[str, Any]:
    reading = {"type": "table", "names": {"0": "negative", "1": "positive"}, "only": {"source": "rotten_tomatoes"}}
    sources = [{"dataset": "artifact:movie-reviews", "files": "**/*.csv", "read": reading}]
    data = {"type": "labelled", "sources": sources, "heldout_rows": options.rows}
    scoring: dict[str, Any] = {
        "likelihood": {"type": "likelihood"},
        "generated": {
            "type": "generated",
            "cpus_per_worker": torch.get_num_threads(),
            "generation": {"engine": options.engine, "max_new_tokens": 4, "kv_cache_bytes": 1 << 29},
        },
    }
    prompt = {
        "task": {"type": "text_classification", "labels": list(LABELS)},
        "template": "Review: {text}\nSentiment: {answer}",
        "demonstrations": {"num_rows": options.shown},
    }
    checks = [
        {"type": "prompted", "name": name, "data": data, "prompt": prompt | {"scoring": scoring[name]}}
        for name in options.parts
    ]
    values = {"kind": "evaluate", "name": "prompted", "model": "artifact:smollm2", "checks": checks}
    return values | {"micro_batch_sequences": options.batch}


def write_tasks(folder: Path, tested: Any, shown: Any) -> None:
    """Rows and tasks as the harness reads them."""
    for name, examples in (("rows", tested), ("shown", shown)):
        lines = [
            json.dumps({"text": one.text, "label": LABELS.index(one.labels[0]), "name": one.labels[0]})
            for one in examples
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    for name, values in TASKS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name} | COMMON | values))
    (folder / "job.yaml").unlink()


def harness(folder: Path, model: str, options: argparse.Namespace) -> dict[str, Any]:
    asked = {"model": model, "tasks": str(folder), "names": options.parts, "num_fewshot": options.shown}
    asked |= {"batch_size": options.batch, "threads": torch.get_num_threads()}
    command = [str(options.peer), str(Path(__file__).parent / "prompted_peer.py")]
    # All that it reads is here; it would otherwise wait for the hub again and again.
    alone = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False, env=alone)
    if done.returncode:
        sys.exit(f"the harness failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def beside(ours: dict[str, Any], theirs: dict[str, Any], num_rows: int) -> dict[str, Any]:
    """What is compared, part by part and at its worst."""
    result: dict[str, Any] = {}
    differences, ratios = [], []
    for name, own in ours.items():
        other = theirs[name]
        if own["prompt"] != other["prompt"]:
            sys.exit(f"{name}: the prompts differ:\n{own['prompt']!r}\n{other['prompt']!r}")
        differences.append(100 * abs(own["score"] - other["score"]))
        ratios.append(other["seconds"] / own["seconds"])
        result |= {
            f"{name}_harness": {"score": other["score"], "rows_per_second": round(num_rows / other["seconds"], 2)},
            f"ratio_{name}": round(ratios[-1], 2),
            f"same_answers_{name}": sum(a == b for a, b in zip(own["scores"], other["scores"], strict=True)),
        }
    return result | {"ratio_vs_harness": round(min(ratios), 2), "score_difference_points": round(max(differences), 3)}


if __name__ == "__main__":
    main()
