"""Every fine-tuning method on one encoder and one data set: `make compare-methods`.

Runs the job files of jobs/recipes/compare-methods one after the other, each in a process of its own and without Ray,
from a store that holds `minilm` and `movie-reviews` (jobs/recipes/imports). For each: the trained share of parameters,
seconds of training, peak memory, accuracy on held-out rows with its interval, and milliseconds for one text. Prints a
table, writes it as an HTML page and, with --save, as JSON; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "platform"))

from rayloom.observe.report_page import Section, page, table

RECIPES = Path(__file__).parents[2] / "jobs/recipes/compare-methods"
METHODS = ("full", "lora", "qlora", "bottleneck", "prefix", "prompt", "p-tuning", "bitfit", "ia3")
RESULTS = Path(__file__).parent / "results"
NUM_TIMED = 40
WARM_UP = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="applied to every job file")
    parser.add_argument("--page", type=Path, help="write the table as an HTML page here")
    parser.add_argument("--save", action="store_true", help="also write the result under tests/bench/results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one, options.set)))
        return
    rows = [in_own_process(method, options.set) for method in options.methods]
    result = {"machine": machine(), "set": options.set, "methods": rows}
    if options.page:
        options.page.write_text(as_page(rows, result["machine"], options.set), encoding="utf-8")
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        day = datetime.datetime.now(datetime.UTC).date().isoformat()
        name = f"compare-methods-{platform.machine()}-{os.cpu_count()}cores-{day}.json"
        (RESULTS / name).write_text(json.dumps(result, indent=2) + "\n")
    for row in rows:
        print(
            f"{row['method']:<11} {row['trained_share']:7.2%} {row['seconds_training']:7.1f} s "
            f"{row['peak_gigabytes']:5.2f} GB  accuracy {row['accuracy']:.3f}  {row['milliseconds_a_text']:.1f} ms"
        )
    print(json.dumps(result))


def in_own_process(method: str, overrides: list[str]) -> dict[str, Any]:
    """A process for each, so that memory is the method's own."""
    command = [sys.executable, str(Path(__file__)), "--one", method]
    for override in overrides:
        command += ["--set", override]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{method} failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{method}: accuracy {found['accuracy']:.3f}", file=sys.stderr, flush=True)
    return found


def measured(method: str, overrides: list[str]) -> dict[str, Any]:
    import torch

    from rayloom.artifacts.store import Store
    from rayloom.dispatch import load_job, resolve
    from rayloom.evaluate.predictor import Predictor
    from rayloom.evaluate.subject import Subject
    from rayloom.evaluate.task_check import judge
    from rayloom.text.examples import read_examples
    from rayloom.text.labelled_set import EXAMPLES_NAME
    from rayloom.train.group import Group
    from rayloom.train.log import read_log
    from rayloom.train.loop import train
    from rayloom.train.model import build_model
    from rayloom.train.prepare import job_of

    file = load_job(RECIPES / f"{method}.yaml", overrides)
    found = resolve(file, Store.beside(file.directory))
    spec: Any = found.spec
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        work.mkdir()
        job = job_of(spec, found.parents, work, Path(folder) / "out")
        train(job, Group(0, 1, torch.device("cpu")), lambda event: None)
        steps = [event for event in read_log(job.log) if event["event"] == "step"]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        trained = build_model(spec, job.base, job.tokenizer)
        sizes = [(size_of(parameter), parameter.requires_grad) for parameter in trained.parameters()]
        is_whole = method == "full"
        subject = Subject("model", method, job.out if is_whole else job.base, None if is_whole else job.out)  # type: ignore[arg-type]
        predictor = Predictor.of(subject)
        examples = list(read_examples(job.heldout["heldout"] / EXAMPLES_NAME))
        judged = judge(predictor.task, examples, predictor.predict(examples, 16))
        times = []
        for example in examples[: NUM_TIMED + WARM_UP]:
            started = time.perf_counter()
            predictor.predict([example], 1)
            times.append(time.perf_counter() - started)
    total = sum(size for size, _ in sizes)
    return {
        "method": method,
        "trained_parameters": sum(size for size, is_trained in sizes if is_trained),
        "trained_share": sum(size for size, is_trained in sizes if is_trained) / total,
        "train_rows": spec.data.train_rows,
        "seconds_training": round(sum(event["seconds"] for event in steps), 2),
        "peak_gigabytes": round(peak / 1e9, 3),
        "accuracy": judged.metrics["score"],
        "interval": judged.metrics["interval"],
        "milliseconds_a_text": round(statistics.median(times[WARM_UP:]) * 1000, 2),
    }


def size_of(parameter: Any) -> int:
    """Weights, also of a matrix that holds two of them in each byte."""
    state = getattr(parameter, "quant_state", None)
    return math.prod(state.shape) if state is not None else int(parameter.numel())


def as_page(rows: list[dict[str, Any]], on: str, overrides: list[str]) -> str:
    header = ("method", "trained", "trained %", "rows", "accuracy", "95 % interval", "seconds", "GB", "ms a text")
    body = [
        (
            row["method"],
            row["trained_parameters"],
            100 * row["trained_share"],
            row["train_rows"],
            row["accuracy"],
            f"{row['interval'][0]:.3f} to {row['interval'][1]:.3f}",
            row["seconds_training"],
            row["peak_gigabytes"],
            row["milliseconds_a_text"],
        )
        for row in rows
    ]
    said = f"{on}; {', '.join(overrides) or 'job files as they are'}"
    section = Section("English film reviews, 22.7 M encoder", table(header, body))
    return page("Fine-tuning methods compared", said, [section])


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, {datetime.datetime.now(datetime.UTC).date().isoformat()}"


if __name__ == "__main__":
    main()
