"""From the name in a request to the replicas that answer it: models, their versions' shares, and adapters."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from rayloom.errors import InputError
from rayloom.serve.replicas.adapters import FoundAdapter, Shelf
from rayloom.serve.transport.error_responses import Refusal
from rayloom.serve.transport.relay import Backend

REMEMBER_SECONDS = 2.0
"""How long the store's answer about an adapter is taken for true."""
MAX_REMEMBERED = 1000


@dataclass(frozen=True)
class Share:
    """One version of a model, and the part of the requests that it gets."""

    backend: Backend
    share: float


@dataclass(frozen=True)
class Target:
    """Who answers a request."""

    backend: Backend
    adapter: str = ""
    """The adapter as the engine knows it: `MODEL:ADAPTER@VERSION`."""
    path: str | None = None
    """The one path that it answers at; None for those of a model in vLLM."""


@dataclass
class Route:
    """One served model."""

    shares: tuple[Share, ...]
    shelf: Shelf | None = None
    path: str | None = None
    """Of a predictor: where it answers."""
    _found: dict[str, tuple[float, FoundAdapter | InputError]] = field(default_factory=dict)

    def backend(self, draw: float) -> Backend:
        """The version that a number from 0 to 1 falls to."""
        for share in self.shares:
            draw -= share.share
            if draw < 0:
                return share.backend
        return self.shares[-1].backend

    async def adapter(self, named: str, clock: Callable[[], float]) -> FoundAdapter:
        """Raises InputError."""
        assert self.shelf is not None
        known = self._found.get(named)
        if known is None or clock() - known[0] > REMEMBER_SECONDS:
            if len(self._found) >= MAX_REMEMBERED:
                self._found.clear()
            known = self._found[named] = (clock(), await asyncio.to_thread(_look, self.shelf, named))
        if isinstance(known[1], InputError):
            raise known[1]
        return known[1]


class Routes:
    """Every model of the endpoint; replaced as a whole when one changes."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.routes = dict(routes)
        self._draw, self._clock = draw, clock

    async def find(self, name: str) -> Target:
        """Raises Refusal where there is no such model or adapter, or where the adapter does not fit."""
        model, colon, adapter = name.partition(":")
        route = self.routes.get(model)
        if route is None or (colon and route.shelf is None):
            text = f"The model `{name[:100]}` does not exist here; there are: {', '.join(self.routes)}."
            raise Refusal(404, text, code="model_not_found", param="model")
        backend = route.backend(self._draw())
        if not colon:
            return Target(backend, path=route.path)
        try:
            found = await route.adapter(adapter, self._clock)
        except InputError as error:
            raise Refusal(404, str(error), code="model_not_found", param="model") from None
        return Target(backend, found.engine_name)

    async def names(self) -> list[str]:
        """Models, and `MODEL:ADAPTER` for each adapter that fits."""
        found = list(self.routes)
        for route in self.routes.values():
            if route.shelf is not None:
                found += await asyncio.to_thread(route.shelf.names)
        return found


def only(backends: Mapping[str, Backend]) -> Routes:
    """Routes of models with one version each and no adapters."""
    return Routes({name: Route((Share(backend, 1.0),)) for name, backend in backends.items()})


def _look(shelf: Shelf, named: str) -> FoundAdapter | InputError:
    try:
        return shelf.find(named)
    except InputError as error:
        return error


def all_of(shares: Iterable[Share]) -> tuple[Share, ...]:
    """The shares, which must add up to the whole."""
    found = tuple(shares)
    total = sum(share.share for share in found)
    if abs(total - 1) > 1e-6:
        raise ValueError(f"the shares add up to {total}")
    return found
