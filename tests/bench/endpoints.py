"""The endpoints that `serve.py` compares: bare vLLM's own server, and Rayloom's service in its profiles."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayloom.artifacts.store import Artifact, Store
from rayloom.observe.ray_session import connect
from rayloom.serve import api_keys
from rayloom.serve.lifecycle import Service, start
from rayloom.specs.serve import ServeSpec

# What both sides are told. `enforce_eager` is Rayloom's default on a CPU.
MAX_MODEL_LENGTH_TOKENS = 2048
MAX_SEQUENCES = 32
KV_CACHE_BYTES = 1 << 30
LIMITS = (
    "--max-model-len", str(MAX_MODEL_LENGTH_TOKENS), "--max-num-seqs", str(MAX_SEQUENCES), "--kv-cache-memory-bytes",
    str(KV_CACHE_BYTES),
)  # fmt: skip
"""The same for vLLM's own server."""


@dataclass(frozen=True)
class Endpoint:
    """Something that answers OpenAI's requests."""

    url: str
    model: str
    seconds_to_start: float
    """Until the first answer; for Rayloom from a cluster that runs."""
    headers: dict[str, str] = field(default_factory=dict)
    service: Service | None = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_answer(url: str, headers: Mapping[str, str], body: bytes, is_alive: Any) -> None:
    while True:
        request = urllib.request.Request(f"{url}/v1/completions", body, {"content-type": "application/json", **headers})
        try:
            urllib.request.urlopen(request, timeout=120).close()
            return
        except (urllib.error.URLError, OSError):
            if not is_alive():
                raise RuntimeError(f"{url} ended before it answered") from None
            time.sleep(0.1)


def _first(model: str) -> bytes:
    return b'{"model": "%s", "prompt": "Hello", "max_tokens": 1}' % model.encode()


@contextmanager
def bare_vllm(model: Path, log: Path, *extra: str, limits: Sequence[str] = LIMITS) -> Iterator[Endpoint]:
    """vLLM's own server in a process of its own, with its own defaults but for what is told."""
    port = free_port()
    arguments = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", "m",
        "--host", "127.0.0.1", "--port", str(port), *limits, *extra,
    ]  # fmt: skip
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    # Left to itself it takes as many threads as it finds fit, as it does for whoever starts it by hand.
    environment.pop("OMP_NUM_THREADS", None)
    began = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            arguments, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_for_answer(url, {}, _first("m"), lambda: process.poll() is None)
        except RuntimeError as error:
            raise RuntimeError(f"{error}:\n{log.read_text()[-4000:]}") from None
        yield Endpoint(url, "m", time.monotonic() - began)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def rayloom_service(
    store: Store, models: Mapping[str, Artifact], *, model_changes: Mapping[str, Any] | None = None, **changes: Any
) -> Iterator[dict[str, Endpoint]]:
    """A service of these models with keys, limits, log and metrics on; an endpoint for each model.

    `model_changes`: of every model; an engine of `auto` is told nothing.
    """
    session = connect()
    engine = {
        "max_model_length_tokens": MAX_MODEL_LENGTH_TOKENS,
        "max_sequences": MAX_SEQUENCES,
        "kv_cache": {"size_bytes": KV_CACHE_BYTES},
    }
    changed = dict(model_changes or {})
    asked = changed.pop("engine", {})
    own = "auto" if asked == "auto" else engine | asked
    served = [
        {"name": name, "model": f"artifact:{artifact.manifest.name}", "engine": own, **changed}
        for name, artifact in models.items()
    ]
    facts = {
        "kind": "serve",
        "name": f"bench-{free_port()}",
        "models": served,
        "port": free_port(),
        "doors": {"keys_required": True, "requests_per_minute": 10_000_000},
    }
    spec = ServeSpec.model_validate(facts | changes)
    _, key = api_keys.create(store, "bench")
    headers = {"authorization": f"Bearer {key}"}
    began = time.monotonic()
    service = start(spec, {f"models.{i}.model": a for i, a in enumerate(models.values())}, store, session)
    assert service is not None
    try:
        for name in models:
            _wait_for_answer(service.url, headers, _first(name), lambda: True)
        seconds = time.monotonic() - began
        yield {name: Endpoint(service.url, name, seconds, headers, service) for name in models}
    finally:
        service.stop()
