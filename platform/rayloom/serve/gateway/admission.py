"""Who may ask, and how often: API keys and rate limits at the gateway."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rayloom.serve.api_keys import ApiKey, KeyRing
from rayloom.serve.transport.asgi_call import Headers
from rayloom.serve.transport.error_responses import AUTHENTICATION, RATE, Refusal, header

ANYONE = ""
FORGET_SECONDS = 120.0


@dataclass
class _Bucket:
    """Requests that may still be made, refilled with time."""

    left: float
    at_seconds: float


class RateLimit:
    """At most so many requests a minute for each caller, in one burst or spread over it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, caller: str, per_minute: int) -> float:
        """Takes one request; 0 when it was there, else the seconds until it will be."""
        now = self._clock()
        bucket = self._buckets.get(caller)
        if bucket is None:
            self._forget(now)
            bucket = self._buckets[caller] = _Bucket(per_minute, now)
        bucket.left = min(per_minute, bucket.left + (now - bucket.at_seconds) * per_minute / 60)
        bucket.at_seconds = now
        if bucket.left >= 1:
            bucket.left -= 1
            return 0.0
        return (1 - bucket.left) * 60 / per_minute

    def _forget(self, now: float) -> None:
        """A caller who was away for two minutes has a full bucket again: nothing to remember."""
        gone = [caller for caller, bucket in self._buckets.items() if now - bucket.at_seconds > FORGET_SECONDS]
        for caller in gone:
            del self._buckets[caller]


class Doors:
    """Lets a request in, or refuses it."""

    def __init__(
        self,
        keys: Callable[[], KeyRing] | None,
        requests_per_minute: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keys`: asked at each request; None for a service that everyone may use."""
        self._keys, self._per_minute = keys, requests_per_minute
        self._limit = RateLimit(clock)

    def admit(self, headers: Headers) -> str:
        """The id of the caller's key, or ANYONE. Raises Refusal."""
        key = self._key(headers) if self._keys is not None else None
        caller = key.id if key is not None else ANYONE
        per_minute = (key.requests_per_minute if key is not None else None) or self._per_minute
        if per_minute is not None:
            wait = self._limit.take(caller, per_minute)
            if wait:
                text = f"More than {per_minute} requests in a minute: try again in {max(1, round(wait))} s."
                raise Refusal(429, text, kind=RATE, code="rate_limit_exceeded", retry_after_seconds=wait)
        return caller

    def _key(self, headers: Headers) -> ApiKey:
        assert self._keys is not None
        authorization = header(headers, b"authorization") or ""
        scheme, _, token = authorization.partition(" ")
        presented = token.strip() if scheme.lower() == "bearer" else header(headers, b"x-api-key") or ""
        if not presented:
            text = "This service asks for an API key: send `Authorization: Bearer KEY`."
            raise Refusal(401, text, kind=AUTHENTICATION, code="missing_api_key")
        key = self._keys().owner(presented)
        if key is None:
            raise Refusal(401, "This API key is not valid.", kind=AUTHENTICATION, code="invalid_api_key")
        return key
