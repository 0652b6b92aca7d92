"""Requests that nobody would write by hand, at the doors of a real service: refused clearly, and it goes on."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import httpx
from support.service import MODEL, Served

SEED = 20_261
NUM_REQUESTS = 160
NUM_AT_ONCE = 8
VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
    "/v1/completions": {"prompt": "Hello"},
    "/tokenize": {"prompt": "Hello"},
}
FIELDS = (
    "model", "messages", "prompt", "max_tokens", "max_completion_tokens", "min_tokens", "temperature", "top_p", "top_k",
    "n", "stop", "seed", "stream", "stream_options", "logprobs", "top_logprobs", "prompt_logprobs", "response_format",
    "tools", "tool_choice", "logit_bias", "presence_penalty", "repetition_penalty", "stop_token_ids", "bad_words",
    "ignore_eos", "echo", "priority", "user", "unknown_field", "add_generation_prompt", "chat_template", "documents",
    "structured_outputs", "lora_request", "kv_transfer_params", "request_id",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2.5, -0.1, 2**31, 2**63, 1e300, "", "x", "x" * 2000, "\x00", "é\u202e", "../../etc",
    [], [None], [[]], [-1], [2**40], ["a", 3], {}, {"": None}, {"type": "json_schema"}, {"type": "regex", "regex": "("},
    {"json": {"type": "object", "properties": 3}}, [{"role": "user"}], [{"role": 3, "content": []}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
PATHS = (
    "/v1",
    "/v1/models/",
    "/v1/models/../keys",
    "/v1/chat/completions/",
    "/metrics",
    "/docs/",
    "/%00",
)


def _spoiled(choice: random.Random) -> tuple[str, bytes]:
    """A valid request with one to three fields that are not."""
    path = choice.choice(sorted(VALID))
    body = {"model": MODEL, "max_tokens": 1, **VALID[path]}
    for _ in range(choice.randint(1, 3)):
        body[choice.choice(FIELDS)] = choice.choice(VALUES)
    text = json.dumps(body).encode()
    if choice.random() < 0.1:
        cut = choice.randrange(len(text))
        text = text[:cut] + choice.randbytes(8) + text[cut + choice.randrange(3) :]
    return path, text


async def _post_all(served: Served, requests: list[tuple[str, bytes]]) -> list[httpx.Response]:
    at_once = asyncio.Semaphore(NUM_AT_ONCE)
    async with httpx.AsyncClient(base_url=served.running.url, headers=served.headers, timeout=60) as client:

        async def post(path: str, content: bytes) -> httpx.Response:
            async with at_once:
                return await client.post(path, content=content)

        return await asyncio.gather(*(post(path, content) for path, content in requests))


def test_spoiled_requests_are_answered_or_refused_and_never_break_anything(served: Served) -> None:
    choice = random.Random(SEED)
    requests = [_spoiled(choice) for _ in range(NUM_REQUESTS)]
    answers = asyncio.run(_post_all(served, requests))
    asked = list(zip(requests, answers, strict=True))
    assert [(request, answer.text) for request, answer in asked if answer.status_code >= 500] == []
    assert all(answer.json()["error"]["message"] for answer in answers if answer.status_code != 200)
    assert {200, 400} <= {answer.status_code for answer in answers}
    hello = json.dumps({"model": MODEL, "max_tokens": 1, **VALID["/v1/chat/completions"]}).encode()
    assert served.post(hello).status_code == 200


def test_a_megabyte_of_random_bytes_is_refused(served: Served) -> None:
    assert served.post(random.Random(SEED).randbytes(1 << 20)).status_code == 413


def test_other_paths_and_methods_are_refused(served: Served) -> None:
    with httpx.Client(base_url=served.running.url, headers=served.headers) as client:
        for path in PATHS:
            for method in METHODS:
                answer = client.request(method, path)
                assert answer.status_code in (404, 405), (method, path, answer.text)
