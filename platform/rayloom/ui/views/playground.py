"""The playground: services of the store asked side by side, through this server, which asks no other address."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from rayloom.commands.endpoint.chat import KEY_VARIABLE
from rayloom.errors import InputError, RayloomError
from rayloom.serve import control_records
from rayloom.ui.pages import form_of as sent
from rayloom.ui.pages import page
from rayloom.ui.workbench import workbench

LIST_SECONDS = 5.0
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 600.0
NUMBERS: Mapping[str, type[int] | type[float]] = {
    "max_tokens": int,
    "temperature": float,
    "top_p": float,
    "frequency_penalty": float,
    "seed": int,
}
"""Parameters of an answer that the page sends."""


@dataclass(frozen=True)
class AskableModel:
    """A model that can chat, of a service that is up."""

    service: str
    name: str


async def overview(request: Request) -> Response:
    """The page, with the models that can be asked now."""
    states = await run_in_threadpool(control_records.states, workbench(request).store)
    up = [state for state in states if control_records.is_up(state)]
    answers = await asyncio.gather(*(_models(state) for state in up))
    models = [model for found, _ in answers for model in found]
    problems = [problem for _, problem in answers if problem]
    parameters = {"max_tokens": "256", "temperature": "0.7", "top_p": "", "frequency_penalty": "", "seed": ""}
    return page(
        request,
        "playground.html",
        title="Playground",
        models=models,
        problems=problems,
        num_services=len(up),
        parameters=parameters,
    )


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Read once: it takes longer than a request."""
    return httpx.create_ssl_context()


async def _models(state: control_records.ServiceState) -> tuple[list[AskableModel], str]:
    """The chat models of a service, and why they are not known."""
    try:
        async with httpx.AsyncClient(timeout=LIST_SECONDS, verify=_certificates()) as client:
            answer = await client.get(f"{state.url}/v1/models", headers=_authorization(""))
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            return [AskableModel(state.service, name) for name in state.models], ""
        models = answer.raise_for_status().json()["data"]
        return [AskableModel(state.service, str(model["id"])) for model in models if "path" not in model], ""
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return [], f"{state.service} does not answer at {state.url}: {type(error).__name__} {error}".strip()


async def ask(request: Request) -> Response:
    """One model's answer as it comes: the server-sent events of the service, passed on."""
    fields = await sent(request)
    try:
        url = await run_in_threadpool(_url, request, fields.get("service", ""))
        body = _body(fields)
    except RayloomError as error:
        return JSONResponse({"problem": str(error)}, 422)
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    client = httpx.AsyncClient(timeout=timeout, verify=_certificates())
    asked = client.build_request(
        "POST", f"{url}/v1/chat/completions", json=body, headers=_authorization(fields.get("key", ""))
    )
    try:
        answer = await client.send(asked, stream=True)
        if answer.status_code != httpx.codes.OK:
            said = (await answer.aread()).decode("utf-8", "replace")
            await client.aclose()
            return JSONResponse({"problem": f"The service answered {answer.status_code}: {_message(said)}"}, 502)
    except httpx.HTTPError as error:
        await client.aclose()
        return JSONResponse({"problem": f"The service does not answer ({type(error).__name__} {error})"}, 502)
    return StreamingResponse(_passed_on(client, answer), media_type="text/event-stream")


async def _passed_on(client: httpx.AsyncClient, answer: httpx.Response) -> AsyncIterator[bytes]:
    """The answer's bytes; the request to the service ends when the page is left."""
    try:
        async for piece in answer.aiter_raw():
            yield piece
    except httpx.HTTPError as error:
        problem = {"problem": f"The service broke off ({type(error).__name__} {error})"}
        yield f"data: {json.dumps(problem)}\n\n".encode()
    finally:
        await answer.aclose()
        await client.aclose()


def _url(request: Request, service: str) -> str:
    """The address in the store's record of a service. Raises InputError if none of this name runs."""
    for state in control_records.states(workbench(request).store):
        if state.service == service and control_records.is_up(state):
            return state.url
    raise InputError(f"No service {service!r} of this store runs")


def _body(fields: Mapping[str, str]) -> dict[str, Any]:
    """The request in OpenAI's form. Raises InputError for a parameter that is no number."""
    body: dict[str, Any] = {"model": fields.get("model", ""), "stream": True, "stream_options": {"include_usage": True}}
    try:
        body["messages"] = json.loads(fields.get("messages", ""))
    except ValueError:
        raise InputError("The messages are no JSON") from None
    for name, kind in NUMBERS.items():
        given = fields.get(name, "").strip()
        if given:
            try:
                body[name] = kind(given)
            except ValueError:
                raise InputError(f"{name} must be a number (it is {given[:40]!r})") from None
    return body


def _authorization(key: str) -> dict[str, str]:
    """The key that was typed, else the one in this server's environment."""
    known = key or os.environ.get(KEY_VARIABLE, "")
    return {"authorization": f"Bearer {known}"} if known else {}


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return text[:500]
