"""A head with its control store in a Redis of its own, a worker, and a service that Ray Serve runs from its config.

It is the config that `rayloom manifest` writes for KubeRay, so this is what stands on Kubernetes, without Kubernetes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import yaml

from rayloom.artifacts.store import Store
from rayloom.dispatch import load_job, run
from rayloom.kinds import SPECS
from rayloom.specs.files.load import load
from rayloom.specs.serve import ServeSpec
from rayloom.submit.local_cluster import LocalCluster, down, up
from rayloom.submit.local_node import LOOPBACK, Shape
from rayloom.submit.pods import KubernetesChoices
from rayloom.submit.service_manifest import serve_config
from support.training_cluster import networks_if_allowed, own_cache
from support.training_jobs import small_spec

ROOT = Path(__file__).parents[2]
SERVICE, MODEL, PORT, REDIS_PORT = "endpoint", "small", 8461, 6493
UP_WITHIN_SECONDS = 400.0
UNPACKED = Path(os.environ.get("RAYLOOM_CACHE", "~/.cache/rayloom")).expanduser() / "debian"
JOB = {
    "kind": "serve",
    "name": SERVICE,
    "port": PORT,
    "doors": {"keys_required": True},
    "models": [
        {
            "name": MODEL,
            "model": "artifact:smollm2",
            "engine": {"max_model_length_tokens": 512, "max_sequences": 8, "kv_cache": {"size_bytes": 1 << 27}},
        }
    ],
}


def _debian() -> ModuleType:
    """cluster/debian.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("debian", ROOT / "cluster" / "debian.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


debian = _debian()


def debian_program(name: str) -> Path:
    """Installed, or unpacked once for this user."""
    UNPACKED.mkdir(parents=True, exist_ok=True)
    return Path(debian.program(name, UNPACKED))


@dataclass
class ServingCluster:
    """The cluster, its store, and how to ask the service; the head may be another one later."""

    folder: Path
    store: Store
    cluster: LocalCluster
    key: str

    def url(self, node: int) -> str:
        networks = self.cluster.networks
        return f"http://{networks.address(node) if networks else LOOPBACK}:{PORT}"

    def ask(self) -> bool:
        """Whether the worker's proxy streams an answer of the model's to its end."""
        # Longer than a block of the cache, so that it is found there again.
        message = {"role": "user", "content": "Say hello. " * 60}
        body = {"model": MODEL, "max_tokens": 4, "temperature": 0, "stream": True, "messages": [message]}
        headers = {"Authorization": f"Bearer {self.key}"}
        try:
            answer = httpx.post(f"{self.url(1)}/v1/chat/completions", json=body, headers=headers, timeout=60)
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and answer.text.rstrip().endswith("data: [DONE]")

    def rayloom(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rayloom", *arguments],
            cwd=self.folder,
            env={**os.environ, "RAYLOOM_STORE": self.store.root},
            capture_output=True,
            text=True,
            check=False,
            timeout=UP_WITHIN_SECONDS,
        )

    def declare(self) -> None:
        """Gives Ray Serve the service's config."""
        (self.folder / "serve.yaml").write_text(yaml.safe_dump(JOB))
        spec = load(self.folder / "serve.yaml", SPECS).spec
        assert isinstance(spec, ServeSpec)
        config = serve_config(spec, str(self.folder / "serve.yaml"), KubernetesChoices("", self.store.root, "2.60.0"))
        if self.cluster.networks is None:
            config["http_options"]["host"] = LOOPBACK
        self._serve("PUT", config)

    def await_running(self) -> None:
        """Returns when Ray Serve says that all of it runs."""
        until = time.monotonic() + UP_WITHIN_SECONDS
        while True:
            with contextlib.suppress(httpx.HTTPError):
                known = self._serve("GET")["applications"]
                if known and all(application["status"] == "RUNNING" for application in known.values()):
                    return
            assert time.monotonic() < until, known
            time.sleep(1)

    def _serve(self, method: str, body: object = None) -> dict[str, dict[str, dict[str, str]]]:
        answer = httpx.request(
            method,
            f"{self.cluster.dashboard}/api/serve/applications/",
            content=None if body is None else json.dumps(body),
            headers={"Authorization": f"Bearer {self.cluster.token()}", "Content-Type": "application/json"},
            timeout=60,
        ).raise_for_status()
        return answer.json() if answer.content else {}  # type: ignore[no-any-return]


@dataclass
class Asker:
    """Asks the service over and over, in a thread."""

    here: ServingCluster
    answers: list[tuple[float, bool]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Asker:
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.is_set():
            self.answers.append((time.monotonic(), self.here.ask()))
            self._stop.wait(0.2)


@contextlib.contextmanager
def serving_cluster(folder: Path, port: int, dashboard_port: int) -> Iterator[ServingCluster]:
    """With a service that answers; nothing of it is left afterwards."""
    store = Store(str(folder / "store"))
    run(load_job(ROOT / "jobs" / "quickstart" / "import-smollm2.yaml"), store)
    program = debian_program("redis-server")
    networks = networks_if_allowed(2)
    address = networks.here if networks else LOOPBACK
    with own_cache(folder / "cache"), redis(program, address, folder):
        shape = Shape(
            2,
            6,
            port,
            dashboard_port,
            head_cpus=0,  # nothing runs there that would die with it
            # As KubeRay sets it: workers wait longer than a head takes to come back.
            environment={
                "RAYLOOM_STORE": store.root,
                "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
                "RAY_metrics_report_interval_ms": "1000",
            },
            head_environment={"RAY_REDIS_ADDRESS": f"{address}:{REDIS_PORT}"},
        )
        try:
            here = ServingCluster(folder, store, up(shape, networks), "")
            here.key = here.rayloom("keys", "create", "tester").stdout.split()[-1]
            here.declare()
            here.await_running()
            yield here
        finally:
            down()


def figures_jobs(folder: Path) -> dict[str, dict[str, Any]]:
    """Small jobs, by name, in whose figures nothing is missing: some rows are dropped, and one cannot be read."""
    words = [f"{word}{number}" for number in range(40) for word in ("river", "boat", "lamp", "street", "garden")]
    dice = random.Random(7)
    texts = [f"the {' and the '.join(dice.sample(words, 60))} that with." for _ in range(400)]
    rows = [json.dumps({"text": text}) for text in [*texts, *["too short"] * 10]] + ["{broken"]
    (folder / "pages").mkdir()
    (folder / "pages" / "a.jsonl").write_text("\n".join(rows) + "\n")
    source = {"name": "pages", "dataset": "./pages", "format": {"type": "jsonl"}, "domain": "web"}
    tokenizer = {"type": "train", "vocabulary_size": 400}
    clean = {
        "kind": "clean",
        "name": "pages",
        "sources": [source],
        "rules": {"repetition": None},
        "output": {"type": "tokens", "tokenizer": tokenizer, "heldout_share": 0.1},
        "max_bad_rows_share": 0.5,
    }
    data = {"type": "corpus", "corpus": "artifact:pages"}
    train = small_spec(name="trained", num_steps=60, data=data).model_dump(mode="json", exclude_none=True)
    check = {"type": "heldout_loss", "rows_of": "artifact:trained"}
    evaluate = {"kind": "evaluate", "name": "judged", "model": "artifact:trained", "checks": [check]}
    return {"pages": clean, "trained": train, "judged": evaluate}


@contextlib.contextmanager
def redis(program: Path, address: str, folder: Path) -> Iterator[None]:
    """For this machine and its own networks only, and only in memory."""
    options = ["--bind", address, "--port", str(REDIS_PORT), "--protected-mode", "no", "--save", ""]
    with (folder / "redis.log").open("w") as log:
        server = subprocess.Popen([program, *options], cwd=folder, stdout=log, stderr=log)
    try:
        yield
    finally:
        server.terminate()
        server.wait()
