"""`rayloom ui` as a process of its own over a store of many artifacts, and the seconds that its pages take."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.ui_store import family, published, trained

from rayloom.artifacts.store import Store
from rayloom.observe.ports import free_port

OF_FAMILY = 6


def fill(store: Store, num_artifacts: int) -> None:
    """So many artifacts, of which a fifth are trainings, three versions a name."""
    Path(store.root).mkdir(parents=True)
    rows, corpus, base, *_ = family(store)
    for number in range(num_artifacts - OF_FAMILY):
        name, version = f"artifact-{number // 3}", f"{number:012x}"
        if number % 5 == 0:
            trained(store, name, version, [base, corpus], 0.01 + number / 1e5)
        else:
            published(store, name, version, parents=[rows], headline=f"{number} rows, licence CC0-1.0")


@contextmanager
def server(
    folder: Path, store: str, environment: Mapping[str, str]
) -> Iterator[tuple[str, float, subprocess.Popen[bytes]]]:
    """Address, the moment of the start, and the process."""
    port = free_port()
    command = [sys.executable, "-m", "rayloom", "ui", "--port", str(port), "--store", store]
    settings = {**os.environ, "RAYLOOM_CACHE": str(folder / "cache"), **environment}
    started = time.monotonic()
    process = subprocess.Popen(command, env=settings, cwd=folder, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}", started, process
    finally:
        process.terminate()
        process.wait(30)


def until_first_page(url: str, started: float) -> float:
    """Seconds from the command to the first page, imports of the server included."""
    while True:
        try:
            if httpx.get(url, timeout=60).status_code == 200:
                return time.monotonic() - started
        except httpx.TransportError:
            time.sleep(0.02)


def until_whole(url: str, num_artifacts: int) -> list[float]:
    """Waits until the whole store is read; seconds of the pages asked for meanwhile."""
    taken = []
    with httpx.Client(base_url=url, timeout=60) as client:
        while f"of {num_artifacts:,}" not in client.get("/?all=yes").text:
            taken.append(seconds_of(client, "/"))
            time.sleep(0.2)
    return taken


def seconds_of(client: httpx.Client, path: str) -> float:
    began = time.monotonic()
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code, answer.text[:500])
    return time.monotonic() - began
