"""The check that a pipeline makes of a service: it answers what it should, and grows under load while it answers."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from rayloom.artifacts.manifest import Outcome
from rayloom.errors import QualityError
from rayloom.observe.progress import progress, say
from rayloom.serve.lifecycle import Service
from rayloom.serve.load_test.clients import Answer, Load, Request, Summary, prompts, summary
from rayloom.serve.replicas.engine_settings import PredictorSettings
from rayloom.serve.replicas.predictor_requests import endpoint_of, first_input
from rayloom.specs.serve import ServeCheck, ServedModel, ServedPredictor

ANSWER_FILE = "answer.json"
REQUESTS_FILE = "requests.jsonl"
NUM_PROMPTS = 64


def checked(service: Service, directory: Path, api_key: str) -> Outcome:
    """What the check found, with the answers written into `directory`. Raises QualityError where it is not good."""
    wanted = service.spec.check
    metrics: dict[str, Any] = {"seconds_to_start": round(service.seconds_to_start, 1)}
    metrics["predictors"] = {served.name: _predicted(service, served, api_key) for served in service.spec.predictors}
    if wanted is None:
        names = ", ".join(served.name for served in service.spec.served)
        return Outcome("report", metrics, headline=f"{names}: started")
    served = service.spec.models[0]
    answer = _asked(service.url, served.name, wanted, api_key)
    (directory / ANSWER_FILE).write_text(json.dumps(answer, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    say(f"{served.name} on {wanted.prompt!r}: {answer['answer']}")
    load, replicas = _loaded(service, served, wanted, api_key)
    write_answers(load.answers, directory / REQUESTS_FILE)
    found = summary(load.answers)
    metrics |= {"answer": answer, "load": found.plain(), "replicas_over_time": replicas}
    return Outcome("report", metrics, headline=_headline(served, found, wanted))


def _predicted(service: Service, served: ServedPredictor, api_key: str) -> dict[str, Any]:
    """What a predictor says of an example. Raises QualityError where it says nothing."""
    import httpx

    engine = service.versions[served.name][0][0].engine
    assert isinstance(engine, PredictorSettings)
    body = {"model": served.name, "input": first_input(engine.task)}
    url, headers = f"{service.url}{endpoint_of(engine.task).path}", {"authorization": f"Bearer {api_key}"}
    answer = httpx.post(url, json=body, headers=headers, timeout=service.spec.doors.deadline_seconds)
    if answer.status_code != 200:
        raise QualityError(f"{served.name} answered its first question with {answer.status_code}: {answer.text[:300]}")
    found: dict[str, Any] = answer.json()["data"][0]
    return found


def _asked(url: str, model: str, wanted: ServeCheck, api_key: str) -> dict[str, Any]:
    """The answer to the check's prompt, by OpenAI's own client."""
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0, timeout=wanted.timeout_seconds)
    began = time.perf_counter()
    completion = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": wanted.prompt}],
        max_tokens=wanted.max_new_tokens,
        temperature=0,
    )
    text = completion.choices[0].message.content or ""
    if wanted.contains.lower() not in text.lower():
        what = f"{model} was asked {wanted.prompt!r} and its answer has no {wanted.contains!r}: {text!r}"
        raise QualityError(what, fix="Train it longer, or change check.contains.")
    seconds = round(time.perf_counter() - began, 3)
    return {"model": model, "prompt": wanted.prompt, "answer": text, "contains": wanted.contains, "seconds": seconds}


def _loaded(
    service: Service, served: ServedModel, wanted: ServeCheck, api_key: str
) -> tuple[Load, list[tuple[float, int]]]:
    """The load, and the number of running replicas by seconds since it began."""
    requests = [Request(text, wanted.max_new_tokens, {"ignore_eos": True}) for text in islice(prompts(), NUM_PROMPTS)]
    headers = {"authorization": f"Bearer {api_key}"}
    load = Load(service.url, served.name, requests, wanted.load_clients, headers=headers)
    most, began = served.autoscaling.max_replicas, time.monotonic()
    replicas: list[tuple[float, int]] = []

    def is_over(running: Load) -> bool:
        everyone_asked = len(running.answers) >= wanted.load_clients
        took_traffic = len({answer.replica for answer in running.answers if answer.is_whole})
        late = time.monotonic() - began > wanted.timeout_seconds
        return late or (everyone_asked and took_traffic >= most)

    with progress("loading", None, "answers") as bar:

        async def tick(running: Load) -> None:
            now = await asyncio.to_thread(service.replicas)
            replicas.append((round(time.monotonic() - began, 1), now.get(served.name, 0)))
            bar.advance(len(running.answers) - bar.done, f"{replicas[-1][1]} of {most} replicas")

        asyncio.run(load.run(is_over, tick))
    _raise_unless_good(load, most, wanted)
    return load, replicas


def _raise_unless_good(load: Load, most: int, wanted: ServeCheck) -> None:
    failed = [answer for answer in load.answers if not answer.is_whole]
    if failed:
        first = failed[0].error or f"status {failed[0].status}"
        what = f"{len(failed)} of {len(load.answers)} requests failed under load, the first with: {first}"
        raise QualityError(what, where=load.url, fix="Look into the log, or lower check.load_clients.")
    took_traffic = len({answer.replica for answer in load.answers})
    if took_traffic < most:
        what = f"Only {took_traffic} of {most} replicas took requests within {wanted.timeout_seconds:g} s of load"
        fix = "Raise check.load_clients or check.timeout_seconds, or lower autoscaling.target_ongoing_requests."
        raise QualityError(what, where=load.url, fix=fix)


def write_answers(answers: list[Answer], path: Path) -> None:
    path.write_text("".join(json.dumps(asdict(answer)) + "\n" for answer in answers), encoding="utf-8")


def _headline(served: ServedModel, found: Summary, wanted: ServeCheck) -> str:
    first = f", first token after {found.time_to_first_token.p50:.2f} s" if found.time_to_first_token else ""
    return (
        f"{served.name} answers {wanted.contains!r}; {len(found.requests_by_replica)} replicas under "
        f"{wanted.load_clients} clients: {found.tokens_per_second:.0f} tokens/s{first}"
    )
