"""Every fine-tuning method on one encoder and one data set: `make compare-methods`.

Runs the job files of jobs/recipes/compare-methods one after the other, each in a process of its own and without Ray,
from a store that holds `minilm` and `movie-reviews` (jobs/recipes/imports), on 100 rows and on all 4,000. For each:
the trained share of parameters, seconds of training, peak memory, accuracy on held-out rows with its interval, and the
milliseconds for one text that it adds to those of the same model without it. Prints a table, writes it as an HTML page
and, with --save, as JSON; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "platform"))

from hardware import hardware
from results_file import save

from rayloom.observe.report_page import Section, page, table

RECIPES = Path(__file__).parents[2] / "jobs/recipes/compare-methods"
METHODS = ("full", "lora", "qlora", "bottleneck", "prefix", "prompt", "p-tuning", "bitfit", "ia3")
SIZES = ((100, 8), (4000, 2))
"""Training rows, and epochs over them."""
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
    result = {"hardware": hardware(), "date": time.strftime("%Y-%m-%d"), "set": options.set, "methods": rows}
    if options.page:
        options.page.write_text(as_page(rows, f"{result['hardware']}, {result['date']}", options.set), encoding="utf-8")
    if options.save:
        save("compare-methods", result)
    for row in rows:
        accuracies = ", ".join(f"{found['accuracy']:.3f} of {found['train_rows']} rows" for found in row["by_rows"])
        seconds = sum(found["seconds_training"] for found in row["by_rows"])
        print(
            f"{row['method']:<11} {row['trained_share']:7.2%} {seconds:7.1f} s {row['peak_gigabytes']:5.2f} GB "
            f" accuracy {accuracies}  {row['milliseconds_a_text']:.1f} ms"
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
    accuracies = ", ".join(f"{one['accuracy']:.3f}" for one in found["by_rows"])
    print(f"{method}: accuracy {accuracies}", file=sys.stderr, flush=True)
    return found


def measured(method: str, overrides: list[str]) -> dict[str, Any]:
    sizes = [trained(method, [*overrides, f"data.train_rows={n}", f"num_epochs={epochs}"]) for n, epochs in SIZES]
    last = sizes[-1]
    shared = ("peak_gigabytes", "trained_parameters", "trained_share", "milliseconds_a_text", "milliseconds_of_base")
    return {
        "method": method,
        **{name: last[name] for name in shared},
        # The first run's: what came before it in this process is only what it needs itself.
        "peak_gigabytes": sizes[0]["peak_gigabytes"],
        "by_rows": [{name: value for name, value in size.items() if name not in shared} for size in sizes],
    }


def trained(method: str, overrides: list[str]) -> dict[str, Any]:
    """One training run and what its result says about the held-out rows."""
    from recipe_training import trained as trained_recipe

    from rayloom.models.responders.responder import Predictor
    from rayloom.models.task_models import task_model
    from rayloom.train.weights.model import build_model

    with trained_recipe(RECIPES / f"{method}.yaml", overrides) as found:
        model = build_model(found.job.spec, found.base, found.job.tokenizer)
        sizes = [(size_of(parameter), parameter.requires_grad) for parameter in model.parameters()]
        predictor = found.predictor
        # In the precision of the other: whole weights are kept in bf16, and adapters are put on the base as it is.
        plain = task_model(found.base, predictor.task)[0].eval().to(next(predictor.model.parameters()).dtype)
        bare = Predictor(predictor.task, predictor.encoder, plain)
        own, others = latencies([predictor, bare], found.examples[: NUM_TIMED + WARM_UP])
    return {
        "trained_parameters": sum(size for size, is_trained in sizes if is_trained),
        "trained_share": sum(size for size, is_trained in sizes if is_trained) / sum(size for size, _ in sizes),
        "train_rows": found.job.spec.data.train_rows,
        "num_epochs": found.job.spec.num_epochs,
        "seconds_training": round(found.seconds, 2),
        "peak_gigabytes": round(found.log[-1]["peak_memory_bytes"] / 1e9, 3),
        "accuracy": found.metrics["score"],
        "interval": found.metrics["interval"],
        "milliseconds_a_text": round(own, 2),
        "milliseconds_of_base": round(others, 2),
    }


def latencies(predictors: list[Any], examples: list[Any]) -> list[float]:
    """Median milliseconds for one text, of each predictor in turn, so that the machine's moods meet all alike."""
    times: list[list[float]] = [[] for _ in predictors]
    for example in examples:
        for predictor, of_one in zip(predictors, times, strict=True):
            started = time.perf_counter()
            predictor.predict([example], 1)
            of_one.append(time.perf_counter() - started)
    return [statistics.median(of_one[WARM_UP:]) * 1000 for of_one in times]


def size_of(parameter: Any) -> int:
    """Weights, also of a matrix that holds two of them in each byte."""
    state = getattr(parameter, "quant_state", None)
    return math.prod(state.shape) if state is not None else int(parameter.numel())


def as_page(rows: list[dict[str, Any]], on: str, overrides: list[str]) -> str:
    sizes = [f"accuracy, {found['train_rows']} rows" for found in rows[0]["by_rows"]]
    header = ("method", "trained", "trained %", *sizes, "seconds", "GB", "ms a text", "ms added")
    body = [
        (
            row["method"],
            row["trained_parameters"],
            100 * row["trained_share"],
            *(f"{found['accuracy']:.3f} ({_interval(found['interval'])})" for found in row["by_rows"]),
            row["by_rows"][-1]["seconds_training"],
            row["peak_gigabytes"],
            row["milliseconds_a_text"],
            row["milliseconds_a_text"] - row["milliseconds_of_base"],
        )
        for row in rows
    ]
    parts = (
        on,
        ", ".join(overrides) or "job files as they are",
        "accuracies with their 95 % intervals, seconds of training on all rows",
        "whole weights answer in bf16, adapters in their base's fp32, each beside its own kind",
    )
    said = "; ".join(parts)
    section = Section("English film reviews, 22.7 M encoder", table(header, body))
    return page("Fine-tuning methods compared", said, [section])


def _interval(bounds: list[float]) -> str:
    return f"{bounds[0]:.3f} to {bounds[1]:.3f}"


if __name__ == "__main__":
    main()
