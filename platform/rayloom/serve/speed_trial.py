"""One trial of a search for a service's speed: the real service is started, warmed up, loaded, measured and stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from itertools import cycle, islice, takewhile
from pathlib import Path

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import ResourceError
from rayloom.observe.ports import free_port
from rayloom.observe.ray_session import connect
from rayloom.serve.lifecycle import check_before, start
from rayloom.serve.load_test.clients import (
    LoadRequest,
    LoadTarget,
    MeasuredAnswer,
    closed_loop,
    made_up_prompts,
    prompts_in,
)
from rayloom.serve.load_test.figures import LatencyObjectives, goodput, summary
from rayloom.specs.search.speed import ServingLoad
from rayloom.specs.serve import AccessRules, ServeSpec

WARM_UP_TOKENS = 8
"""Length of the answers that nobody measures."""


def measured(
    spec: ServeSpec, load: ServingLoad, parents: Mapping[str, Artifact], store: Store, job_directory: Path
) -> dict[str, float]:
    """The metrics of the service's first model under the load. No process is left, and its port is free.

    Raises ResourceError with the engine's own error if it does not start, and if no answer comes.
    """
    session = connect()
    spec = as_measured(spec, load)
    check_before(spec, parents, num_cores=session.num_cores if session.is_embedded else None)
    until = time.monotonic() + load.start_seconds
    service = start(spec, parents, store, session, lambda: time.monotonic() > until)
    if service is None:
        what = f"{spec.models[0].name} had not started after {load.start_seconds:g} s"
        raise ResourceError(what, fix="Raise load.start_seconds.")
    try:
        answers = asyncio.run(loaded(LoadTarget(service.url, spec.models[0].name), load, job_directory))
    finally:
        service.stop()
    return figures(answers, load, service.seconds_to_start)


def as_measured(spec: ServeSpec, load: ServingLoad) -> ServeSpec:
    """The service on a free port of this machine, without keys, limits and log; its engines are as they were."""
    doors = AccessRules(deadline_seconds=load.seconds + load.start_seconds)
    logs = spec.logs.model_copy(update={"access": False})
    models = tuple(each.model_copy(update={"serve_if_slower": True}) for each in spec.models)
    own = {"host": "127.0.0.1", "port": free_port(), "doors": doors, "logs": logs, "check": None, "models": models}
    return spec.model_copy(update=own)


async def loaded(target: LoadTarget, load: ServingLoad, job_directory: Path) -> list[MeasuredAnswer]:
    """The answers to the load, after others that warm the engine up."""
    file = load.prompts
    texts = made_up_prompts() if file is None else cycle(prompts_in(job_directory / Path(file).expanduser()))
    extra = {"ignore_eos": True}
    warm_up = [LoadRequest(text, WARM_UP_TOKENS, extra) for text in islice(texts, load.clients)]
    await closed_loop(target, warm_up, load.clients)
    until = time.monotonic() + load.seconds
    requests = (LoadRequest(text, load.new_tokens, extra) for text in texts)
    return await closed_loop(target, takewhile(lambda _: time.monotonic() < until, requests), load.clients)


def figures(answers: list[MeasuredAnswer], load: ServingLoad, seconds_to_start: float) -> dict[str, float]:
    """The metrics of a trial (`SERVING_METRICS`). Raises ResourceError if no request was answered."""
    found = summary(answers)
    first, each = found.time_to_first_token, found.time_per_output_token
    if first is None or each is None:
        said = next((answer.error for answer in answers if answer.error), "none was sent")
        raise ResourceError(f"No request was answered under load: {said}")
    good = goodput(answers, LatencyObjectives(load.first_token_seconds, load.per_token_seconds), found.seconds)
    return {
        "goodput_tokens_per_second": good["tokens_per_second"],
        "goodput_share": good["share"],
        "tokens_per_second": found.tokens_per_second,
        "first_token_seconds": first.p50,
        "per_token_seconds": each.p50,
        "seconds_to_start": round(seconds_to_start, 1),
    }
