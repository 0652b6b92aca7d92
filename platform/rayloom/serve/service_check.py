"""The check of a service in a pipeline: that it gives the expected answer, and scales up under load without errors."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from rayloom.artifacts.manifest import Outcome
from rayloom.errors import QualityError
from rayloom.observe.progress import progress, say
from rayloom.serve.lifecycle import Service
from rayloom.serve.load_test.clients import (
    LoadRequest,
    LoadTarget,
    MeasuredAnswer,
    closed_loop,
    made_up_prompts,
    repeated,
)
from rayloom.serve.load_test.figures import Summary, summary
from rayloom.serve.replicas.engine_settings import PredictorSettings
from rayloom.serve.replicas.predictor_requests import endpoint_of, example_input
from rayloom.specs.serve import ServeCheck, ServedModel, ServedPredictor

ANSWER_FILE = "answer.json"
REQUESTS_FILE = "requests.jsonl"
NUM_PROMPTS = 64


def checked(service: Service, directory: Path, api_key: str) -> Outcome:
    """Checks the service and writes the answers into `directory`. Raises QualityError if the check fails."""
    check = service.spec.check
    metrics: dict[str, Any] = {"seconds_to_start": round(service.seconds_to_start, 1)}
    metrics["start_seconds"] = {model: versions[0]["start"] for model, versions in service.described().items()}
    metrics["predictors"] = {
        served.name: _predictor_answer(service, served, api_key) for served in service.spec.predictors
    }
    if check is None:
        names = ", ".join(served.name for served in service.spec.served)
        return Outcome("report", metrics, headline=f"{names}: started")
    served = service.spec.models[0]
    answer = _first_answer(service.url, served.name, check, api_key)
    (directory / ANSWER_FILE).write_text(json.dumps(answer, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    say(f"{served.name} on {check.prompt!r}: {answer['answer']}")
    answers, replicas = _answers_under_load(service, served, check, api_key)
    write_answers(answers, directory / REQUESTS_FILE)
    figures = summary(answers)
    metrics |= {"answer": answer, "load": figures.plain(), "replicas_over_time": replicas}
    return Outcome("report", metrics, headline=_headline(served, figures, check))


def _predictor_answer(service: Service, served: ServedPredictor, api_key: str) -> dict[str, Any]:
    """A predictor's answer to an example. Raises QualityError if there is none."""
    import httpx

    engine = service.versions[served.name][0][0].engine
    assert isinstance(engine, PredictorSettings)
    body = {"model": served.name, "input": example_input(engine.task)}
    url, headers = f"{service.url}{endpoint_of(engine.task).path}", {"authorization": f"Bearer {api_key}"}
    answer = httpx.post(url, json=body, headers=headers, timeout=service.spec.doors.deadline_seconds)
    if answer.status_code != 200:
        raise QualityError(f"{served.name} answered its first question with {answer.status_code}: {answer.text[:300]}")
    data: dict[str, Any] = answer.json()["data"][0]
    return data


def _first_answer(url: str, model: str, check: ServeCheck, api_key: str) -> dict[str, Any]:
    """The answer to the check's prompt, from OpenAI's own client. Raises QualityError if it is not as expected."""
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0, timeout=check.timeout_seconds)
    began = time.perf_counter()
    completion = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": check.prompt}],
        max_tokens=check.max_new_tokens,
        temperature=0,
    )
    text = completion.choices[0].message.content or ""
    if check.contains.lower() not in text.lower():
        what = f"{model} was asked {check.prompt!r} and its answer does not contain {check.contains!r}: {text!r}"
        raise QualityError(what, fix="Train it longer, or change check.contains.")
    seconds = round(time.perf_counter() - began, 3)
    return {"model": model, "prompt": check.prompt, "answer": text, "contains": check.contains, "seconds": seconds}


def _answers_under_load(
    service: Service, served: ServedModel, check: ServeCheck, api_key: str
) -> tuple[list[MeasuredAnswer], list[tuple[float, int]]]:
    """The answers under load, and the number of running replicas over time, in seconds since the load began."""
    extra = {"ignore_eos": True}
    requests = [LoadRequest(text, check.max_new_tokens, extra) for text in islice(made_up_prompts(), NUM_PROMPTS)]
    target = LoadTarget(service.url, served.name, {"authorization": f"Bearer {api_key}"})
    most, began = served.autoscaling.max_replicas, time.monotonic()
    answers, replicas = list[MeasuredAnswer](), list[tuple[float, int]]()

    async def watch() -> None:
        with progress("loading", None, "answers") as bar:
            while True:
                now = await asyncio.to_thread(service.replicas)
                replicas.append((round(time.monotonic() - began, 1), now.get(served.name, 0)))
                bar.advance(len(answers) - bar.done, f"{replicas[-1][1]} of {most} replicas")
                await asyncio.sleep(1)

    async def load() -> None:
        watching = asyncio.create_task(watch())

        def is_over() -> bool:
            everyone_asked = len(answers) >= check.load_clients
            took_traffic = len({answer.replica for answer in answers if answer.is_whole})
            late = time.monotonic() - began > check.timeout_seconds
            return late or watching.done() or (everyone_asked and took_traffic >= most)

        await closed_loop(target, repeated(requests, is_over), check.load_clients, answers.append)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching  # raises if it failed, which also ends the load

    asyncio.run(load())
    _raise_unless_good(answers, most, check, service.url)
    return answers, replicas


def _raise_unless_good(answers: list[MeasuredAnswer], most: int, check: ServeCheck, url: str) -> None:
    failed = [answer for answer in answers if not answer.is_whole]
    if failed:
        first = failed[0].error or f"status {failed[0].status}"
        what = f"{len(failed)} of {len(answers)} requests failed under load, the first with: {first}"
        raise QualityError(what, where=url, fix="Look into the log, or lower check.load_clients.")
    took_traffic = len({answer.replica for answer in answers})
    if took_traffic < most:
        what = f"Only {took_traffic} of {most} replicas took requests within {check.timeout_seconds:g} s of load"
        fix = "Raise check.load_clients or check.timeout_seconds, or lower autoscaling.target_ongoing_requests."
        raise QualityError(what, where=url, fix=fix)


def write_answers(answers: list[MeasuredAnswer], path: Path) -> None:
    path.write_text("".join(json.dumps(asdict(answer)) + "\n" for answer in answers), encoding="utf-8")


def _headline(served: ServedModel, figures: Summary, check: ServeCheck) -> str:
    first = f", first token after {figures.time_to_first_token.p50:.2f} s" if figures.time_to_first_token else ""
    return (
        f"{served.name} answers {check.contains!r}; {len(figures.requests_by_replica)} replicas under "
        f"{check.load_clients} clients: {figures.tokens_per_second:.0f} tokens/s{first}"
    )
