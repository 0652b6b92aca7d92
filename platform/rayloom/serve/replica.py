"""One replica of a model: ray.serve.llm's server around a vLLM engine, asked by plain HTTP requests.

The engine is imported when a replica starts, not when this file is: the driver that deploys it, and the gateway, need
no vLLM. Requests go through vLLM's own application, so fields, errors and streams are those of its server.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rayloom.artifacts.store import Store
from rayloom.errors import InputError, RayloomError
from rayloom.serve.asgi_call import REPLICA_HEADER, Headers, called, with_header
from rayloom.serve.cores import Lease, bindable_cores, lease
from rayloom.serve.engine import EngineSettings, engine_arguments, environment
from rayloom.serve.failures import CAUSE, engine_cause

PRINTED_TO = Path("/proc/self/fd/2")


class EngineReplica:
    """A Ray Serve deployment: `http` answers one request as byte frames (see `asgi_call`)."""

    async def __init__(self, settings: EngineSettings) -> None:  # type: ignore[misc]  # Serve awaits it
        engine = settings.served.engine
        self._cores = None if engine.gpus_per_replica else _lease(engine.cpus_per_replica)
        os.environ.update(environment(engine))
        printed_before = _printed_bytes()
        try:
            self._server = await _started(settings, self._cores)
        except RayloomError as error:
            raise RuntimeError(f"{CAUSE}{error}") from None
        except Exception as error:
            raise RuntimeError(f"{CAUSE}{engine_cause(_printed(printed_before)) or error}") from error
        self._application = await self._server.__serve_build_asgi_app__()
        self._name = _replica_name()

    async def http(self, path: str, headers: Headers, body: bytes) -> AsyncIterator[bytes]:
        has_head = False
        async for frame in called(self._application, path, headers, body):
            yield frame if has_head else with_header(frame, REPLICA_HEADER, self._name)
            has_head = True

    async def check_health(self) -> None:
        await self._server.check_health()


def _replica_name() -> str:
    from ray.serve import get_replica_context

    return str(get_replica_context().replica_id.unique_id)


def _lease(num_cores: int) -> Lease | None:
    bindable = bindable_cores()
    return lease(num_cores, bindable) if bindable else None


async def _started(settings: EngineSettings, cores: Lease | None) -> Any:
    folder = _model_folder(settings)
    from ray.llm._internal.common.callbacks.base import CallbackConfig
    from ray.serve.llm import LLMConfig
    from ray.serve.llm.deployment import LLMServer

    from rayloom.serve.llm_engine import ModelIsHere, one_process_engine

    engine = settings.served.engine
    resource = {"GPU": 1} if engine.gpus_per_replica else {"CPU": engine.cpus_per_replica}
    config = LLMConfig(
        model_loading_config={"model_id": settings.served.name, "model_source": folder},
        engine_kwargs=engine_arguments(engine),
        placement_group_config={"bundles": [resource] * max(1, engine.gpus_per_replica)},
        callback_config=CallbackConfig(callback_class=ModelIsHere),
    )
    on_cores = cores.inherited if cores else nullcontext
    server = LLMServer.sync_init(config, engine_cls=None if engine.gpus_per_replica else one_process_engine(on_cores))
    await server.start()
    return server


def _model_folder(settings: EngineSettings) -> str:
    store = Store(settings.store_uri)
    manifest = store.manifest(settings.artifact_name, settings.artifact_version)
    if manifest is None:
        what = f"This node does not see {settings.artifact_name}@{settings.artifact_version}"
        raise InputError(what, where=settings.store_uri, fix="Use a store that every node reaches: s3://… or NFS.")
    return str(store.open(manifest).path)


def _printed_bytes() -> int:
    return PRINTED_TO.stat().st_size if PRINTED_TO.is_file() else 0


def _printed(begin: int) -> str:
    """What this replica and its engine's processes printed since; Ray keeps it in a file."""
    if not PRINTED_TO.is_file():
        return ""
    with PRINTED_TO.open("rb") as file:
        file.seek(begin)
        return file.read().decode("utf-8", "replace")
