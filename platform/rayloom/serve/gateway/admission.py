"""Authentication and rate limits at the gateway."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rayloom.serve.api_keys import ApiKey, KeyRing
from rayloom.serve.transport.asgi_call import Headers
from rayloom.serve.transport.relay import AUTHENTICATION, RATE, Refusal, header

ANYONE = ""


@dataclass
class _Bucket:
    """A token bucket: the requests left, refilled over time."""

    left: float
    at_seconds: float
    full_at_seconds: float
    """When it will be full again if nothing more is taken."""


class RateLimit:
    """A token bucket for each caller: at most so many requests a minute, in one burst or spread over the minute.

    The limit holds for all gateways together: each grants its share of the burst and of the rate. If the limit is below
    the number of gateways, each still lets the first request through.
    """

    def __init__(self, num_gateways: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._num_gateways, self._clock = num_gateways, clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, caller: str, per_minute: int) -> float:
        """Takes one request from the bucket; returns 0, or the seconds to wait if it is empty."""
        now, share = self._clock(), per_minute / self._num_gateways
        size, per_second = max(1.0, share), share / 60
        bucket = self._buckets.get(caller)
        if bucket is None:
            self._forget(now)
            bucket = self._buckets[caller] = _Bucket(size, now, now)
        bucket.left = min(size, bucket.left + (now - bucket.at_seconds) * per_second)
        wait = 0.0
        if bucket.left >= 1:
            bucket.left -= 1
        else:
            wait = (1 - bucket.left) / per_second
        bucket.at_seconds, bucket.full_at_seconds = now, now + (size - bucket.left) / per_second
        return wait

    def _forget(self, now: float) -> None:
        """Deletes full buckets, which are equal to new ones."""
        for caller in [caller for caller, bucket in self._buckets.items() if bucket.full_at_seconds <= now]:
            del self._buckets[caller]


class Admission:
    """Checks a request's API key and rate limit."""

    def __init__(
        self,
        keys: Callable[[], KeyRing] | None,
        requests_per_minute: int | None,
        num_gateways: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keys`: returns the valid keys, called for each request; None for a service without keys."""
        self._keys, self._per_minute = keys, requests_per_minute
        self._limit = RateLimit(num_gateways, clock)

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
