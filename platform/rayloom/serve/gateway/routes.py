"""Routing of requests by model name: to the versions of a model by their shares, and to adapters."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from rayloom.errors import InputError
from rayloom.serve.replicas.adapters import AdapterCatalog, ResolvedAdapter
from rayloom.serve.transport.relay import Backend, Refusal

REMEMBER_SECONDS = 2.0
"""How long a lookup of an adapter in the store is cached."""
MAX_REMEMBERED = 1000


@dataclass(frozen=True)
class VersionShare:
    """One version of a model and its share of the requests."""

    backend: Backend
    share: float


@dataclass(frozen=True)
class RequestTarget:
    """The backend that answers a request."""

    backend: Backend
    adapter: str = ""
    """The adapter as the engine knows it: `MODEL:ADAPTER@VERSION`."""
    path: str | None = None
    """The only path of a predictor; None for a model in vLLM."""


@dataclass
class Route:
    """The versions and adapters of one served model."""

    shares: tuple[VersionShare, ...]
    catalog: AdapterCatalog | None = None
    path: str | None = None
    """The path of a predictor; None for a model in vLLM."""
    _resolved: dict[str, tuple[float, ResolvedAdapter | InputError]] = field(default_factory=dict)

    def backend(self, draw: float) -> Backend:
        """The version selected by `draw`, a random number from 0 to 1, according to the shares."""
        for share in self.shares:
            draw -= share.share
            if draw < 0:
                return share.backend
        return self.shares[-1].backend

    async def adapter(self, named: str, clock: Callable[[], float]) -> ResolvedAdapter:
        """The adapter that a request names. Raises InputError if it cannot be used."""
        assert self.catalog is not None
        known = self._resolved.get(named)
        if known is None or clock() - known[0] > REMEMBER_SECONDS:
            if len(self._resolved) >= MAX_REMEMBERED:
                self._resolved.clear()
            known = self._resolved[named] = (clock(), await asyncio.to_thread(_lookup, self.catalog, named))
        if isinstance(known[1], InputError):
            raise known[1]
        return known[1]


class Routes:
    """The routes of all models of the endpoint; replaced as a whole if one changes."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.routes = dict(routes)
        self._draw, self._clock = draw, clock

    async def resolve(self, name: str) -> RequestTarget:
        """The target of requests for this name. Raises Refusal if there is no such model or usable adapter."""
        model, colon, adapter = name.partition(":")
        route = self.routes.get(model)
        if route is None or (colon and route.catalog is None):
            text = f"The model `{name[:100]}` does not exist here; there are: {', '.join(self.routes)}."
            raise Refusal(404, text, code="model_not_found", param="model")
        backend = route.backend(self._draw())
        if not colon:
            return RequestTarget(backend, path=route.path)
        try:
            resolved = await route.adapter(adapter, self._clock)
        except InputError as error:
            raise Refusal(404, str(error), code="model_not_found", param="model") from None
        return RequestTarget(backend, resolved.engine_name)

    async def names(self) -> list[str]:
        """The names of models, and `MODEL:ADAPTER` for each usable adapter."""
        names = list(self.routes)
        for route in self.routes.values():
            if route.catalog is not None:
                names += await asyncio.to_thread(route.catalog.names)
        return names


def single_versions(backends: Mapping[str, Backend]) -> Routes:
    """Routes of models with one version each and no adapters."""
    return Routes({name: Route((VersionShare(backend, 1.0),)) for name, backend in backends.items()})


def _lookup(catalog: AdapterCatalog, named: str) -> ResolvedAdapter | InputError:
    try:
        return catalog.resolve(named)
    except InputError as error:
        return error


def shares_of(shares: Iterable[VersionShare]) -> tuple[VersionShare, ...]:
    """The shares. Raises ValueError if they do not add up to 1."""
    versions = tuple(shares)
    total = sum(version.share for version in versions)
    if abs(total - 1) > 1e-6:
        raise ValueError(f"the shares add up to {total}")
    return versions
