"""A service as `rayloom run` keeps it up, for tests: started, asked, changed by commands, and stopped by a signal."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from openai import OpenAI

from rayloom.artifacts.store import Store
from rayloom.serve import api_keys, control_records
from support.processes import title_of

UP_WITHIN_SECONDS = 300.0
MODEL = "smollm"
# Asked greedily, SmolLM2 has one answer to these on every processor: test_clear_answers.py holds their lead. Few
# questions have one: of "the capital of France" the first token leads by 0.1 nats.
CAPITAL = [{"role": "user", "content": "What is the capital of Japan?"}]
CAPITAL_ANSWER = "The capital of Japan is Tokyo"
COUNTING = "1, 2, 3, 4, 5, 6,"
COUNTING_ANSWER = " 7, 8, 9, 10"


@dataclass(frozen=True)
class Running:
    """A service that answers."""

    port: int
    process: subprocess.Popen[str]
    job: Path
    environment: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        """What `rayloom run` has printed until now."""
        return self.job.with_suffix(".txt").read_text(encoding="utf-8")

    def client(self, key: str) -> OpenAI:
        """To be closed."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`rayloom …` beside the running service."""
        return subprocess.run(
            [sys.executable, "-m", "rayloom", *arguments],
            env=self.environment,
            cwd=self.job.parent,
            capture_output=True,
            text=True,
            timeout=UP_WITHIN_SECONDS,
            check=False,
        )

    def replicas(self, application: str) -> list[psutil.Process]:
        """The processes that hold an application's replicas."""
        return self.processes(f"ray::ServeReplica:{application}:")

    def processes(self, title: str) -> list[psutil.Process]:
        """Those of the service whose name begins so."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in family if title_of(process).startswith(title)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def write_job(folder: Path, port: int, engine: Mapping[str, Any], **changes: Any) -> Path:
    """A serve job of one small model in `folder`; `changes` go into the job, and for `model` into its model."""
    small = {"max_model_length_tokens": 512, "max_sequences": 8, "kv_cache": {"size_bytes": 1 << 27}}
    model = {"name": MODEL, "model": "artifact:smollm2", "engine": small | engine, **changes.pop("model", {})}
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump({"kind": "serve", "name": "tested", "port": port, "models": [model], **changes}))
    return file


@contextmanager
def running(job: Path, port: int, store: Store) -> Iterator[Running]:
    """The service of a job file, ended by Ctrl-C's signal where the test did not do so."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["RAYLOOM_STORE"] = store.uri
    said = job.with_suffix(".txt")
    with said.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "rayloom", "run", str(job)],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        until = time.monotonic() + UP_WITHIN_SECONDS
        # A model that may sleep is ready before it has started; commands find the service once it has.
        while not (is_up(port) and control_records.states(store)):
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < until, said.read_text()
            time.sleep(0.5)
        yield Running(port, process, job, environment)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)


def until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits for what comes by itself."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.2)


@dataclass(frozen=True)
class Served:
    """The service that the tests of `serve` share, and a key to it."""

    running: Running
    store: Store
    key: str
    client: OpenAI

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def log(self) -> list[dict[str, Any]]:
        """The access log."""
        file = self.store.log_directory / "access-tested.jsonl"
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]

    def post(self, body: bytes) -> httpx.Response:
        url = f"{self.running.url}/v1/chat/completions"
        return httpx.post(url, content=body, headers=self.headers, timeout=60)


@contextmanager
def served_by(job: Path, port: int, store: Store) -> Iterator[Served]:
    """The running service of a job file with a key to it."""
    _, key = api_keys.create(store, "tests")
    with running(job, port, store) as service, service.client(key) as client:
        yield Served(service, store, key, client)
