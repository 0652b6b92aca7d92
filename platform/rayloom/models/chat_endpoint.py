"""A model behind an OpenAI-compatible endpoint: requests from any thread, within its limits and a budget."""

from __future__ import annotations

import email.utils
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from rayloom.errors import InputError, ResourceError
from rayloom.specs.generation.engines import EndpointBudget, EndpointEngine

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
"""Of pauses that grow by themselves; one that the endpoint asks for is kept whatever it is."""
_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "insufficient_balance", "insufficient_credits")


@dataclass(frozen=True)
class EndpointReply:
    """An answer of the endpoint."""

    text: str
    num_tokens: int
    num_prompt_tokens: int
    is_cut: bool
    model: str
    """The name that the endpoint gives itself, often with a version."""


class RefusedError(Exception):
    """The endpoint refuses this one request, and would again."""


class ChatEndpoint:
    """Sends requests. Raises InputError if its key is missing.

    `spent`: tokens of prompts and of answers that earlier runs paid for.
    """

    def __init__(
        self, spec: EndpointEngine, spent: tuple[int, int] = (0, 0), sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._spec, self._sleep = spec, sleep
        headers = {}
        if spec.api_key_variable is not None:
            name = spec.api_key_variable
            key = os.environ.get(name, "").strip()
            if not key:
                what = f"The environment variable {name} is not set, which should hold the endpoint's key"
                raise InputError(what, where=spec.url, fix=f"export {name}=… where the job is started.")
            headers["Authorization"] = f"Bearer {key}"
        limits = httpx.Limits(max_connections=spec.max_parallel_requests)
        self._client = httpx.Client(headers=headers, timeout=spec.timeout_seconds, limits=limits)
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._account = None if spec.budget is None else Account(spec.budget, spent)

    def close(self) -> None:
        self._client.close()

    def check_model(self) -> None:
        """Raises ResourceError if the endpoint does not answer, InputError if it lists models and ours is none."""
        fix = "Start it, or correct url, model and api_key_variable."
        try:
            response = self._client.get(f"{self._spec.url.rstrip('/')}/models")
        except httpx.HTTPError as error:
            what = f"The endpoint does not answer ({type(error).__name__})"
            raise ResourceError(what, where=self._spec.url, fix=fix) from error
        if response.status_code == httpx.codes.NOT_FOUND:
            return  # an endpoint that lists no models
        if not response.is_success:
            what = f"The endpoint refuses a request: {_said(response)[0]}"
            raise ResourceError(what, where=self._spec.url, fix=fix)
        try:
            known = [str(model["id"]) for model in response.json()["data"]]
        except (ValueError, KeyError, TypeError):
            return
        if known and self._spec.model not in known:
            what = f"The endpoint has no model {self._spec.model}; it has {', '.join(known[:5])}"
            raise InputError(what, where=self._spec.url, fix="Correct model.")

    def reply(self, messages: Sequence[Mapping[str, str]], max_tokens: int, **how: Any) -> EndpointReply:
        """The answer to a conversation. `how`: further keys of the request.

        Raises RefusedError if this request alone is refused; InputError or ResourceError if all would be: no such model
        or key, the endpoint is down, or the money is spent.
        """
        body = {"model": self._spec.model, "messages": list(messages), "max_tokens": max_tokens} | how
        # A token is at least one byte; those that a chat template adds are few beside that.
        most_input = sum(len(message["content"].encode()) for message in messages)
        if self._account is not None:
            self._account.reserve(most_input, max_tokens, self._spec.url)
        used = (0, 0)
        try:
            reply = self._reply_in(self._sent(body))
            used = (reply.num_prompt_tokens, reply.num_tokens)
            return reply
        finally:
            if self._account is not None:
                self._account.settle(most_input, max_tokens, *used)

    def _sent(self, body: Mapping[str, Any]) -> httpx.Response:
        said = ""
        for attempt in range(self._spec.num_attempts):
            self._wait_for_turn()
            try:
                response = self._client.post(f"{self._spec.url.rstrip('/')}/chat/completions", json=body)
            except httpx.HTTPError as error:
                said, wanted = f"{type(error).__name__}: {error}".rstrip(": "), None
            else:
                if response.is_success:
                    return response
                said, wanted = self._refusal(response), retry_after_seconds(response.headers.get("Retry-After"))
            if attempt + 1 < self._spec.num_attempts:
                growing = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**attempt) * random.uniform(0.5, 1)
                self._pause(growing if wanted is None else wanted)
        fix = "What was answered is kept: run the same command again when it works, or raise num_attempts."
        what = f"The endpoint did not answer {self._spec.num_attempts} times; the last time: {said}"
        raise ResourceError(what, where=self._spec.url, fix=fix)

    def _refusal(self, response: httpx.Response) -> str:
        """What a refusal that may pass says. Raises for one that will not."""
        said, code = _said(response)
        if response.status_code == httpx.codes.PAYMENT_REQUIRED or code in _NO_MONEY:
            fix = "What was answered is kept: pay in, and run the same command again."
            raise ResourceError(f"The endpoint's account has no money left: {said}", where=self._spec.url, fix=fix)
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN, httpx.codes.NOT_FOUND):
            fix = "Check url, model, and the key in the variable that api_key_variable names."
            raise InputError(f"The endpoint refuses: {said}", where=self._spec.url, fix=fix)
        if response.status_code < 500 and response.status_code not in (
            httpx.codes.REQUEST_TIMEOUT,
            httpx.codes.CONFLICT,
            httpx.codes.TOO_MANY_REQUESTS,
        ):
            raise RefusedError(said)
        return said

    def _reply_in(self, response: httpx.Response) -> EndpointReply:
        try:
            values = response.json()
            choice, usage = values["choices"][0], values.get("usage") or {}
            text = choice["message"]["content"] or ""
            reason = choice.get("finish_reason")
            tokens = (int(usage.get("completion_tokens", 0)), int(usage.get("prompt_tokens", 0)))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise RefusedError(f"answers in another form than /chat/completions: {error!r}") from None
        if self._account is not None and not all(tokens):
            what = "The endpoint does not say how many tokens it used, so that a budget cannot be kept"
            raise InputError(what, where=self._spec.url, fix="Leave budget out.")
        return EndpointReply(str(text), *tokens, reason == "length", str(values.get("model") or self._spec.model))

    def _wait_for_turn(self) -> None:
        """Waits until a request may be sent: requests are spread evenly, and all wait for a pause."""
        interval = 60 / self._spec.requests_per_minute if self._spec.requests_per_minute else 0.0
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._free_at)
            self._free_at = begin + interval
        if begin > now:
            self._sleep(begin - now)

    def _pause(self, seconds: float) -> None:
        """No request is sent for so long, by any thread: limits hold for the key, not for a request."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic() + seconds)


class Account:
    """What may still be spent. A request reserves the most that it can cost, and settles what it did."""

    def __init__(self, budget: EndpointBudget, spent: tuple[int, int]) -> None:
        self._budget, self._lock = budget, threading.Lock()
        self.cost = self._cost(*spent)
        self._reserved = 0.0

    def reserve(self, input_tokens: float, output_tokens: float, where: str) -> None:
        most = self._cost(input_tokens, output_tokens)
        with self._lock:
            if self.cost + self._reserved + most > self._budget.cost:
                spent = f"{self.cost:.4g} of {self._budget.cost:g}"
                fix = "What was answered is kept: raise budget.cost, and run the same command again."
                raise ResourceError(f"The budget is spent ({spent})", where=where, fix=fix)
            self._reserved += most

    def settle(self, input_tokens: float, output_tokens: float, used_input: int, used_output: int) -> None:
        with self._lock:
            self._reserved -= self._cost(input_tokens, output_tokens)
            self.cost += self._cost(used_input, used_output)

    def _cost(self, input_tokens: float, output_tokens: float) -> float:
        budget = self._budget
        prices = (budget.price_per_million_input_tokens, budget.price_per_million_output_tokens)
        return (input_tokens * prices[0] + output_tokens * prices[1]) / 1e6


def retry_after_seconds(value: str | None) -> float | None:
    """Seconds that `Retry-After` asks for, as a number or a date (RFC 9110, section 10.2.3); None if for none."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _said(response: httpx.Response) -> tuple[str, str]:
    """Status and message of an error, and its code."""
    try:
        error = response.json().get("error")
    except (ValueError, AttributeError):
        error = None
    values = error if isinstance(error, dict) else {}
    message = str(values.get("message") or error or response.text).strip()[:300]
    code = str(values.get("code") or values.get("type") or "")
    return f"{response.status_code} {response.reason_phrase}: {message}", code
