"""A replica of a language model: ray.serve.llm's server with a vLLM engine.

The engine is imported when a replica starts, so the driver that deploys it and the gateway need no vLLM. Requests go
through vLLM's own HTTP application, so fields, errors and streams are those of vLLM's server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rayloom.artifacts.store import Artifact, Store
from rayloom.engine_errors import CAUSE, printed_cause
from rayloom.errors import InputError, RayloomError
from rayloom.models.compile_cache import keep_compiled
from rayloom.serve.replicas.adapters import base_digests_of
from rayloom.serve.replicas.answering_replica import AnsweringReplica, Write
from rayloom.serve.replicas.capacity import read_shape
from rayloom.serve.replicas.cores import CoreLease, bindable_cores, lease_cores
from rayloom.serve.replicas.engine_internals import (
    adapter_loader,
    http_application,
    is_engine_dead,
    load_named_adapter,
    one_process_engine,
    printed_seconds,
    started_server,
    telling_engine,
)
from rayloom.serve.replicas.engine_settings import EngineSettings, engine_arguments, environment, precision_here
from rayloom.serve.replicas.start_times import StartTimes, seconds_of_this_process
from rayloom.serve.transport.asgi_call import (
    REPLICA_HEADER,
    Application,
    Headers,
    call_application,
    head_frame,
    read_head,
    start_call,
    with_header,
)
from rayloom.specs.serve import Adapters

PRINTED_TO = Path("/proc/self/fd/2")
_JSON = ((b"content-type", b"application/json"),)
_LOG = logging.getLogger("ray.serve")


class RunningEngine:
    """ray.serve.llm's server with its engine, and vLLM's HTTP application on it, in this process and event loop."""

    def __init__(self, server: Any, application: Application, cores: CoreLease | None, times: StartTimes) -> None:
        self._server, self.application, self._cores, self.start_times = server, application, cores, times
        self.name = replica_name()

    @classmethod
    async def started(cls, settings: EngineSettings) -> RunningEngine:
        """Starts the engine. Raises RuntimeError with its error, marked so that it is found in Serve's message."""
        engine, times = settings.served.engine, {"process": seconds_of_this_process()}
        cores = None if engine.gpus_per_replica else _leased_cores(engine.cpus_per_replica)
        os.environ.update(environment(engine))
        keep_compiled()
        printed_before = _printed_bytes()
        try:
            server = await _started(settings, cores, times)
        except RayloomError as error:
            raise RuntimeError(f"{CAUSE}{error}") from None
        except Exception as error:
            raise RuntimeError(f"{CAUSE}{printed_cause(_printed(printed_before)) or error}") from error
        weights, graphs, compiling = printed_seconds(_printed(printed_before))
        with _timed(times, "first answer"):
            application = await http_application(server)
            await _warm_up(application, settings.served.name)
        found = StartTimes.of(times, weights, graphs, compiling)
        sys.stderr.write(f"{settings.served.name}: this replica {found}\n")  # into Ray's log of this process
        return cls(server, application, cores, found)

    async def load_adapter(self) -> None:
        """Loads the adapter that Serve's request names. Raises RayloomError or ValueError."""
        await load_named_adapter(self._server)

    async def check_health(self) -> None:
        self.end_where_it_died()
        await self._server.check_health()

    def end_where_it_died(self) -> None:
        """Ends this replica if its engine's process has died: the gateway then sends the request to another replica,
        while vLLM would answer each request with an error."""
        if is_engine_dead(self._server):
            _LOG.error("the engine's process died; the replica ends and is started anew")
            os._exit(1)


class EngineReplica(AnsweringReplica):
    """A replica of a model in vLLM."""

    async def __init__(self, settings: EngineSettings) -> None:  # type: ignore[misc]  # Serve awaits it
        super().__init__()
        self._engine = await RunningEngine.started(settings)

    async def answer(self, path: str, headers: Headers, body: bytes, write: Write) -> None:
        engine = self._engine
        try:
            await engine.load_adapter()
        except (RayloomError, ValueError) as error:
            write(head_frame(404, _JSON))
            write(json.dumps({"error": {"message": f"The adapter did not load: {error}", "param": "model"}}).encode())
            return
        has_head = False

        def write_while_it_lives(frame: bytes) -> None:
            nonlocal has_head
            engine.end_where_it_died()
            write(frame if has_head else with_header(frame, REPLICA_HEADER, engine.name))
            has_head = True

        running = start_call(engine.application, path, headers, body, write_while_it_lives)
        try:
            await asyncio.wait({running.task})
        finally:
            running.disconnect()
        failure = running.failure()
        if failure is not None:
            # Starlette sends a 500 and then raises: the answer is complete, so the cause is only logged.
            _LOG.error("a request failed in the engine's application", exc_info=failure)
            if not has_head:
                write(head_frame(500, _JSON))

    async def check_health(self) -> None:
        await self._engine.check_health()

    async def start_times(self) -> dict[str, float | None]:
        return asdict(self._engine.start_times)


def replica_name() -> str:
    """The name of this process' replica, as in the answers' header."""
    from ray.serve import get_replica_context

    return str(get_replica_context().replica_id.unique_id)


def _leased_cores(num_cores: int) -> CoreLease | None:
    bindable = bindable_cores()
    return lease_cores(num_cores, bindable) if bindable else None


@contextmanager
def _timed(times: dict[str, float], phase: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    times[phase] = time.perf_counter() - began


async def _started(settings: EngineSettings, cores: CoreLease | None, times: dict[str, float]) -> Any:
    cores_of_engine = cores.inherited if cores else nullcontext
    models = [opened_artifact(settings.store_uri, settings.artifact_name, settings.artifact_version)]
    models += [opened_artifact(settings.store_uri, *settings.draft)] if settings.draft else []
    with ThreadPoolExecutor(1) as beside:
        # From an object store, some gigabytes of weights come in the time of the imports.
        folders = beside.submit(lambda: [str(model.path) for model in models])
        with _timed(times, "imports"):
            import rayloom.pretrained  # noqa: F401 - for what vLLM imports of transformers

            is_on_gpus = settings.served.engine.gpus_per_replica > 0
            engine_class = telling_engine() if is_on_gpus else one_process_engine(cores_of_engine)
        with _timed(times, "files"):
            folder, *others = folders.result()
    engine, bases = settings.served.engine, frozenset(settings.base_digests)
    precision = precision_here(engine, read_shape(Path(folder)))
    resource = {"GPU": 1} if engine.gpus_per_replica else {"CPU": engine.cpus_per_replica}
    config = {
        "model_loading_config": {"model_id": settings.served.name, "model_source": folder},
        "engine_kwargs": engine_arguments(settings, others[0] if others else None, precision),
        "placement_group_config": {"bundles": [resource] * max(1, engine.gpus_per_replica)},
        "lora_config": _lora_config(settings.served.adapters),
    }
    with _timed(times, "engine"):
        return await started_server(
            config,
            engine_class,
            adapter_loader(partial(_adapter_folder, Store(settings.store_uri), bases)),
            skips_download=engine.pipeline_stages == 1,  # stages on other nodes need the preparation
        )


def _adapter_folder(store: Store, base_digests: frozenset[str], engine_name: str) -> str:
    """This node's folder of the adapter that the engine calls `MODEL:ADAPTER@VERSION`. Raises InputError."""
    model, _, name = engine_name.partition(":")
    manifest = store.resolve(name)
    if not base_digests & base_digests_of(manifest):
        raise InputError(f"{manifest.id} was trained on another model than {model}")
    return str(store.open(manifest).path)


async def _warm_up(application: Application, model: str) -> None:
    """Requests an answer with log-probabilities: at the first one vLLM compiles a kernel, for 3 to 18 s on a CPU."""
    body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 2, "temperature": 0, "logprobs": 1}).encode()
    async with aclosing(call_application(application, "/v1/completions", _JSON, body)) as frames:
        status, _ = read_head(await anext(frames))
        rest = b"".join([frame async for frame in frames])
    if status != 200:
        _LOG.warning("the engine answered its first request with %d: %s", status, rest[:300].decode("utf-8", "replace"))


def _lora_config(adapters: Adapters | None) -> dict[str, Any] | None:
    if adapters is None:
        return None
    return {"dynamic_lora_loading_path": None, "max_num_adapters_per_replica": adapters.max_loaded}


def opened_artifact(store_uri: str, name: str, version: str) -> Artifact:
    """The artifact, with its files on this node. Raises InputError if this node cannot read it."""
    store = Store(store_uri)
    manifest = store.manifest(name, version)
    if manifest is None:
        what = f"This node does not see {name}@{version}"
        raise InputError(what, where=store_uri, fix="Use a store that every node reaches: s3://… or NFS.")
    return store.open(manifest)


def _printed_bytes() -> int:
    return PRINTED_TO.stat().st_size if PRINTED_TO.is_file() else 0


def _printed(begin: int) -> str:
    """The output of this replica and its engine's processes since offset `begin` of Ray's log file."""
    if not PRINTED_TO.is_file():
        return ""
    with PRINTED_TO.open("rb") as file:
        file.seek(begin)
        return file.read().decode("utf-8", "replace")
