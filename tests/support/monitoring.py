"""A real Prometheus on a real cluster, set up as `make monitor` does, and the queries of the dashboards."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from rayloom.submit.local_cluster import LocalCluster

CLUSTER = Path(__file__).parents[2] / "cluster"
PORT = 9793


@dataclass(frozen=True)
class Prometheus:
    """One that answers."""

    url: str

    def num_series(self, query: str, since: float) -> int:
        """How many lines a panel shows for this query from `since` (seconds since 1970) to now: a run's figures
        end with it. Fails where Prometheus does not take the query."""
        asked = {"query": query, "start": since, "end": time.time(), "step": 1}
        answer = httpx.get(f"{self.url}/api/v1/query_range", params=asked, timeout=30).json()
        assert answer["status"] == "success", f"{query}: {answer}"
        return len(answer["data"]["result"])

    def health(self) -> list[str]:
        """Of each address that is asked: up, down or unknown."""
        targets = httpx.get(f"{self.url}/api/v1/targets", timeout=30).json()["data"]["activeTargets"]
        return [target["health"] for target in targets]


@contextlib.contextmanager
def prometheus(program: Path, cluster: LocalCluster, folder: Path) -> Iterator[Prometheus]:
    """With the file of `make monitor`, at this cluster's address and more often."""
    config = (CLUSTER / "monitoring" / "prometheus.yaml").read_text()
    changed = config.replace("http://127.0.0.1:8265", cluster.dashboard)
    changed = changed.replace("scrape_interval: 10s", "scrape_interval: 1s").replace("15s", "2s")
    assert changed != config
    folder.mkdir()
    (folder / "prometheus.yaml").write_text(changed)
    (folder / "token").symlink_to(Path(cluster.folder) / "token")
    options = ["--config.file=prometheus.yaml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{PORT}"]
    with (folder / "prometheus.log").open("w") as log:
        running = subprocess.Popen([program, *options], cwd=folder, stdout=log, stderr=log)
    try:
        found = Prometheus(f"http://127.0.0.1:{PORT}")
        until = time.monotonic() + 60
        while not _is_ready(found):
            assert time.monotonic() < until, (folder / "prometheus.log").read_text()
            time.sleep(0.2)
        yield found
    finally:
        running.terminate()
        running.wait()


def _is_ready(found: Prometheus) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{found.url}/-/ready", timeout=5).status_code == 200
    return False


def queries() -> Iterator[str]:
    """Every query of every dashboard, as Grafana sends it with all runs, services and models chosen."""
    for path in sorted((CLUSTER / "grafana").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                query = target["expr"].replace("$__rate_interval", "1m")
                for variable in ("$run", "$service", "$model"):
                    query = query.replace(variable, ".*")
                assert "$" not in query, query
                yield query
