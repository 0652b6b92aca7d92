"""`rayloom bench URL`: load test of an OpenAI-compatible endpoint: latency and throughput."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rayloom.commands.endpoint.chat import KEY_VARIABLE, open_client, served_models
from rayloom.commands.output import console, emit_json, plain_table
from rayloom.errors import InputError, RayloomError
from rayloom.observe.progress import progress, say
from rayloom.serve.load_test.clients import (
    LoadTarget,
    MeasuredAnswer,
    closed_loop,
    open_loop,
    poisson_arrivals,
    requests_of,
)
from rayloom.serve.load_test.figures import LatencyObjectives, goodput, summary
from rayloom.serve.report import TIMES, rendered


def bench(options: argparse.Namespace) -> int:
    """Prints a table, or the result as JSON. Returns 1 if a request failed."""
    target = _target(options)
    extra = {"ignore_eos": True} if options.ignore_eos else {}
    requests = requests_of(options.prompts, options.requests, options.max_new_tokens, extra)
    with progress("loading", len(requests), "answers") as bar:

        def on_answer(_: MeasuredAnswer) -> None:
            bar.advance()

        if options.rate is None:
            load = f"{options.clients} clients, closed loop"
            answers = asyncio.run(closed_loop(target, requests, options.clients, on_answer))
        else:
            load = f"{options.rate:g} requests/s, Poisson arrivals (seed {options.seed})"
            arrivals = poisson_arrivals(len(requests), options.rate, options.seed)
            answers = asyncio.run(open_loop(target, requests, arrivals, on_answer))
    objectives = LatencyObjectives(options.good_ttft, options.good_tpot, options.good_latency)
    result = result_of(target, load, answers, objectives)
    _tell(result, options)
    if options.save is not None:
        options.save.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.report is not None:
        options.report.write_text(rendered(result, answers), encoding="utf-8")
        say(f"report: {options.report.resolve()}")
    if result["num_failed"] == len(answers):
        raise RayloomError("Every request failed", where=target.url, fix=f"The first: {next(iter(result['errors']))}.")
    return 1 if result["num_failed"] else 0


def result_of(
    target: LoadTarget, load: str, answers: Sequence[MeasuredAnswer], objectives: LatencyObjectives
) -> dict[str, Any]:
    """All results as JSON values."""
    figures = summary(answers)
    errors = Counter(answer.error or f"status {answer.status}" for answer in answers if not answer.is_whole)
    head: dict[str, Any] = {"url": target.url, "model": target.model, "load": load, **figures.plain()}
    return head | {"goodput": goodput(answers, objectives, figures.seconds), "errors": dict(errors.most_common())}


def _target(options: argparse.Namespace) -> LoadTarget:
    client = open_client(options.url)
    models = served_models(client, options.url)
    model = options.model or models[0]
    if model not in models:
        raise InputError(f"There is no model {model} at this address", where=options.url, fix=f"There are: {models}.")
    url = str(client.base_url).rstrip("/").removesuffix("/v1")
    key = os.environ.get(KEY_VARIABLE)
    return LoadTarget(url, model, {"authorization": f"Bearer {key}"} if key else {})


def _tell(result: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        emit_json(result)
        return
    table = plain_table("seconds", "p50", "p90", "p99", "longest")
    for key, name in TIMES.items():
        if result[key]:
            table.add_row(name, *(f"{result[key][part]:.4f}" for part in ("p50", "p90", "p99", "max")))
    console().print(table)
    good, failed = result["goodput"], result["num_failed"]
    say(
        f"{result['model']}, {result['load']}: {result['tokens_per_second']:,.1f} tokens/s, "
        f"{result['requests_per_second']:.2f} requests/s, of which good {good['requests_per_second']:.2f} "
        f"({good['share']:.1%}); {failed} of {result['num_requests']} failed"
    )
    for error, count in list(result["errors"].items())[:3]:
        say(f"  {count} × {error}")
