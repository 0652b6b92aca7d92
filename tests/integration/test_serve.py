"""`rayloom run` of a serve job on the real model: asked, refused, changed, hurt and stopped, in this order."""

from __future__ import annotations

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx
import pytest
from openai import AuthenticationError, BadRequestError, NotFoundError, RateLimitError
from support.service import CAPITAL, CAPITAL_ANSWER, COUNTING, COUNTING_ANSWER, MODEL, Served, until

from rayloom.serve import api_keys
from rayloom.serve.load_test.clients import LoadRequest, LoadTarget, MeasuredAnswer, closed_loop, repeated

ROOT = Path(__file__).parents[2]
ENDLESS = {"model": MODEL, "messages": CAPITAL, "max_tokens": 450, "ignore_eos": True, "stream": True}


def test_a_question_is_answered(served: Served) -> None:
    answer = served.client.chat.completions.create(model=MODEL, messages=CAPITAL, temperature=0, max_tokens=16)  # type: ignore[arg-type]
    assert str(answer.choices[0].message.content).startswith(CAPITAL_ANSWER)
    assert answer.choices[0].finish_reason == "stop"


def test_a_stream_comes_in_pieces_and_is_the_same_answer(served: Served) -> None:
    prompt: dict[str, Any] = {"model": MODEL, "prompt": COUNTING, "temperature": 0, "max_tokens": 12}
    whole = served.client.completions.create(**prompt)
    pieces = [piece.choices[0].text for piece in served.client.completions.create(**prompt, stream=True)]
    assert len(pieces) > 1
    assert whole.choices[0].text.startswith(COUNTING_ANSWER)
    assert "".join(pieces) == whole.choices[0].text


def test_stop_strings_seeds_and_log_probabilities(served: Served) -> None:
    counted = served.client.completions.create(
        model=MODEL, prompt=COUNTING, max_tokens=24, temperature=0, stop=["9"], logprobs=2
    )
    assert counted.choices[0].text == COUNTING_ANSWER.partition("9")[0]
    assert counted.choices[0].logprobs is not None
    sampled = [
        served.client.completions.create(model=MODEL, prompt="Once", max_tokens=8, temperature=1, seed=7)
        for _ in range(2)
    ]
    assert sampled[0].choices[0].text == sampled[1].choices[0].text


def test_seeded_requests_with_long_prompts_are_answered_together(served: Served) -> None:
    """More than vLLM reads in one step, so that it reads some of the prompts in parts."""

    def text(seed: int) -> str:
        prompt = f"{seed} " + "long " * 400
        asked = served.client.completions.create(model=MODEL, prompt=prompt, max_tokens=2, temperature=1, seed=seed)
        return asked.choices[0].text

    with ThreadPoolExecutor(16) as threads:
        assert len(list(threads.map(text, range(16)))) == 16


def test_an_answer_keeps_to_a_json_schema(served: Served) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "is_capital": {"type": "boolean"}},
        "required": ["city", "is_capital"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    answer = served.client.chat.completions.create(
        model=MODEL,
        messages=CAPITAL,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=80,
        response_format=wanted,  # type: ignore[arg-type]
    )
    place = json.loads(str(answer.choices[0].message.content))
    assert set(place) == {"city", "is_capital"}
    assert isinstance(place["is_capital"], bool)


def test_a_tool_is_called_with_what_its_schema_wants(served: Served) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    answer = served.client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "How is the weather in Paris?"}],
        tools=[tool],  # type: ignore[list-item]
        tool_choice={"type": "function", "function": {"name": "weather"}},
        temperature=0,
        max_tokens=64,
    )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "weather"
    assert "city" in call.function.arguments


# -- doors -------------------------------------------------------------------------------------------------------------


def test_without_a_key_nothing_opens_but_health(served: Served) -> None:
    with served.running.client("none") as stranger, pytest.raises(AuthenticationError, match="not valid"):
        stranger.models.list()
    assert httpx.get(f"{served.running.url}/v1/models").status_code == 401
    assert httpx.get(f"{served.running.url}/health").status_code == 200


def test_a_new_key_opens_and_a_revoked_one_soon_does_not(served: Served) -> None:
    made = served.running.command("keys", "create", "guest")
    guest = made.stdout.strip()
    until(lambda: _opens(served, guest))
    key_id = guest.split("-")[1]
    assert served.running.command("keys", "revoke", key_id).returncode == 0
    until(lambda: not _opens(served, guest))


def test_a_keys_limit_is_a_429_with_a_time_to_come_back(served: Served) -> None:
    _, few = api_keys.create(served.store, "few", requests_per_minute=2)
    until(lambda: _opens(served, few))
    with served.running.client(few) as client, pytest.raises(RateLimitError) as refused:
        for _ in range(3):
            client.models.list()
    assert int(refused.value.response.headers["retry-after"]) >= 1


def _opens(served: Served, key: str) -> bool:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.get(f"{served.running.url}/v1/models", headers=headers).status_code == 200


def test_an_unknown_model_is_a_404(served: Served) -> None:
    with pytest.raises(NotFoundError, match=MODEL):
        served.client.completions.create(model="other", prompt="Hello")


@pytest.mark.parametrize(
    "body",
    [b'{"model": ', b"\x00\xff" * 1000, b'{"model": "smollm"}', b'{"model": "smollm", "messages": 3}', b"[" * 9000],
    ids=["cut off", "random bytes", "no messages", "wrong type", "deep"],
)
def test_bad_requests_are_400s_in_openais_form(served: Served, body: bytes) -> None:
    response = served.post(body)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_what_is_too_long_is_refused(served: Served) -> None:
    with pytest.raises(BadRequestError, match="512"):
        served.client.completions.create(model=MODEL, prompt="word " * 3000)
    assert served.post(b'{"model": "smollm"}' + b" " * 20_000).status_code == 413


def test_clients_that_hang_up_free_their_slots(served: Served) -> None:
    """As many endless streams as the service takes are opened and dropped; the next answer comes long before they
    would have ended."""

    async def open_and_drop(client: httpx.AsyncClient) -> None:
        url = f"{served.running.url}/v1/chat/completions"
        async with client.stream("POST", url, json=ENDLESS, headers=served.headers) as response:
            assert response.status_code == 200
            async for _ in response.aiter_bytes():
                return

    async def drop_many() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            await asyncio.gather(*(open_and_drop(client) for _ in range(16)))

    asyncio.run(drop_many())
    until(lambda: served.log()[-1].get("error") == "client_left")
    small = ENDLESS | {"max_tokens": 2, "stream": False}
    response = served.post(json.dumps(small).encode())
    assert response.status_code == 200


def test_a_full_queue_is_a_429_and_the_rest_is_answered(served: Served) -> None:
    """The replica takes 24 and 32 may wait: of 100 at once some are refused, and every other one is answered whole."""
    target, answers = LoadTarget(served.running.url, MODEL, served.headers), list[MeasuredAnswer]()
    requests = repeated([LoadRequest("Tell me a story.", 8, {"ignore_eos": True})], lambda: len(answers) > 0)
    asyncio.run(closed_loop(target, requests, 100, answers.append))
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 24
    assert all(answer.num_tokens == 8 for answer in answers if answer.status == 200)


def test_a_port_in_use_is_one_sentence(served: Served) -> None:
    second = served.running.command("run", str(served.running.job))
    assert second.returncode == 4
    assert str(served.running.port) in second.stderr
    assert "Traceback" not in second.stderr


# -- adapters ----------------------------------------------------------------------------------------------------------


def test_adapters_are_asked_for_by_name_and_one_makes_room_for_another(served: Served) -> None:
    names = [MODEL, f"{MODEL}:first-lora", f"{MODEL}:second-lora"]
    # Other tests' adapters of the same base lie in the store too.
    assert {model.id for model in served.client.models.list().data} >= set(names)

    def said(model: str) -> str:
        answer = served.client.completions.create(model=model, prompt="The sea", temperature=0, max_tokens=12)
        return answer.choices[0].text

    first = {model: said(model) for model in names}
    assert len(set(first.values())) == 3
    assert {model: said(model) for model in names} == first


def test_the_base_and_an_adapter_answer_together_as_each_does_alone(served: Served) -> None:
    """Also where the engine has room for one adapter only."""
    names, text = [MODEL, f"{MODEL}:first-lora"], "The ships lay in the harbour and waited for wind. " * 8

    def log_p(model: str) -> float:
        """Of the text's tokens, on average: what rounding does to it is far below what the adapter does."""
        answer = served.client.completions.create(model=model, prompt=text, max_tokens=1, logprobs=0, echo=True)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.token_logprobs is not None
        return fmean(value for value in logprobs.token_logprobs[1:-1] if value is not None)

    alone = [log_p(model) for model in names]
    assert abs(alone[0] - alone[1]) > 0.1
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(log_p, names * 4))
    assert together == pytest.approx(alone * 4, abs=0.02)


@pytest.mark.parametrize("adapter", ["..", "../smollm2", "missing", "smollm2"])
def test_what_is_no_adapter_of_the_model_is_a_404(served: Served, adapter: str) -> None:
    with pytest.raises(NotFoundError):
        served.client.completions.create(model=f"{MODEL}:{adapter}", prompt="Hello", max_tokens=1)


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_the_dashboard_draws_what_the_service_shows_prometheus(served: Served) -> None:
    """Every metric of Rayloom's and of the engine's that the dashboard names is exported, by model and adapter."""
    found = re.search(r"http://\S+/metrics", served.running.said)
    assert found is not None
    text = (ROOT / "cluster" / "grafana" / "serving.json").read_text(encoding="utf-8")
    drawn = set(re.findall(r"ray_(?:rayloom|vllm|serve)_\w+", text))
    assert len(drawn) > 10
    served.client.completions.create(model=f"{MODEL}:first-lora", prompt="Hello", max_tokens=1)
    wanted = {f"\n{name}{{" for name in drawn} | {'adapter="first-lora"', f'model="{MODEL}"'}
    seen: set[str] = set()

    def are_all_seen() -> bool:
        """Asks too: figures of an engine at rest are not shown, and a cache has hits only from the second time on."""
        served.client.completions.create(model=MODEL, prompt="word " * 300, max_tokens=1)
        shown = httpx.get(found[0], timeout=30).text
        seen.update(text for text in wanted if text in shown)
        return seen == wanted

    until(are_all_seen, 120)
