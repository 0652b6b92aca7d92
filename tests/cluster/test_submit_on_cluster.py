"""Jobs on a real cluster of two nodes: submit, follow, list, stop, retry, a store that is not shared, a wrong token."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rayloom.artifacts.store import Store

IMPORT = "kind: import\nname: {}\nsource: {{type: folder, path: {}}}\ncontent: {{type: dataset}}\nlicence: MIT\n"
PORT, DASHBOARD_PORT = 6407, 8273


@dataclass
class Terminal:
    """A folder with job files, from which commands are called as a person does."""

    folder: Path
    environment: dict[str, str]

    def rayloom(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rayloom", *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=150,
        )

    def job(self, name: str, path: str = "./pages") -> str:
        (self.folder / f"{name}.yaml").write_text(IMPORT.format(name, path))
        return f"{name}.yaml"

    def until(self, name: str, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not is_so():
            assert time.monotonic() < end, self.log(name)
            time.sleep(0.5)

    def log(self, name: str) -> str:
        return self.rayloom("jobs", "logs", name).stdout

    def facts(self, name: str) -> dict[str, object]:
        facts: dict[str, object] = json.loads(self.rayloom("jobs", "status", name, "--json").stdout)
        return facts


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    folder = tmp_path_factory.mktemp("submit")
    (folder / "pages").mkdir()
    (folder / "pages" / "a.jsonl").write_text('{"text": "one"}\n')
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY")}
    environment = {**kept, "RAYLOOM_CACHE": str(folder / "cache"), "RAYLOOM_STORE": str(folder / "store")}
    terminal = Terminal(folder, environment)
    ports = ("--port", str(PORT), "--dashboard-port", str(DASHBOARD_PORT))
    started = terminal.rayloom("cluster", "up", "--nodes", "2", "--cpus-per-node", "1", *ports)
    assert started.returncode == 0, started.stderr
    assert "2 nodes of 1 CPUs" in started.stderr
    yield terminal
    sessions = json.loads((folder / "cache" / "local-cluster.json").read_text())["sessions"]
    assert "is down" in terminal.rayloom("cluster", "down").stderr
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    assert [row for row in rows if int(row[0]) in sessions and not row[1].startswith("Z")] == []


def test_a_job_runs_on_the_cluster_and_its_result_is_in_the_store(terminal: Terminal) -> None:
    file = terminal.job("first")
    ended = terminal.rayloom("submit", file, "--follow")
    assert ended.returncode == 0, ended.stderr
    assert "made: " in ended.stdout
    assert "first: succeeded" in ended.stderr
    assert Store(str(terminal.folder / "store")).resolve("first").content == "dataset"
    again = terminal.rayloom("submit", file)
    assert "was submitted before and is succeeded" in again.stderr
    assert terminal.facts("first")["attempt"] == "1"
    assert "made: " in terminal.log("first")
    assert "first" in terminal.rayloom("jobs", "list").stdout


def test_each_node_unpacks_a_jobs_files_for_itself(terminal: Terminal) -> None:
    """Nodes that share them take them away from each other's drivers."""
    assert terminal.rayloom("submit", terminal.job("unpacked"), "--wait").returncode == 0
    cluster = json.loads((terminal.folder / "cache" / "local-cluster.json").read_text())
    unpacked = Path(cluster["folder"]).glob("r*/session_2*/runtime_resources/working_dir_files")
    assert sorted(path.relative_to(cluster["folder"]).parts[0] for path in unpacked) == ["r0", "r1"]


def test_a_job_that_fails_ends_with_its_own_code_and_sentence(terminal: Terminal) -> None:
    (terminal.folder / "lacking.yaml").write_text("kind: merge\nname: lacking\nadapter: artifact:nowhere\n")
    ended = terminal.rayloom("submit", "lacking.yaml", "--wait")
    assert ended.returncode == 3
    assert "error: There is no artifact nowhere" in ended.stderr
    assert terminal.rayloom("jobs", "status", "lacking").returncode == 3


def test_a_store_that_the_nodes_do_not_share_is_found_out_by_the_job(terminal: Terminal) -> None:
    """Every process has its own memory, as every machine has its own disk."""
    ended = terminal.rayloom("submit", terminal.job("alone"), "--wait", "--store", "memory://store")
    assert ended.returncode == 4
    assert "error: Not every node has the store" in ended.stderr


def test_a_job_is_stopped_and_tried_again(terminal: Terminal) -> None:
    """It waits for another builder of the same artifact, whose lock the test holds."""
    file = terminal.job("waiting", str(terminal.folder / "pages"))
    version = terminal.rayloom("plan", file).stderr.rpartition("waiting@")[2][:12]
    lock = terminal.folder / "store" / "waiting" / f".{version}.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert terminal.rayloom("submit", file).returncode == 0
        terminal.until(
            "waiting", lambda: "another process is making it" in terminal.rayloom("jobs", "logs", "waiting").stdout
        )
        stopped = terminal.rayloom("jobs", "stop", "waiting")
        assert "waiting: stopped; `rayloom jobs retry waiting` continues it" in stopped.stderr
        assert "stopped; the same command continues" in terminal.log("waiting")
    assert "attempt 2 submitted" in terminal.rayloom("jobs", "retry", "waiting").stderr
    terminal.until("waiting", lambda: terminal.facts("waiting")["status"] not in ("PENDING", "RUNNING"))
    facts = terminal.facts("waiting")
    assert (facts["status"], facts["attempt"]) == ("SUCCEEDED", "2")
    assert "is succeeded: there is nothing to retry" in terminal.rayloom("jobs", "retry", "waiting").stderr


def test_a_wrong_token_is_one_clear_sentence(terminal: Terminal) -> None:
    ended = terminal.rayloom("jobs", "list", RAY_AUTH_TOKEN="wrong")
    assert ended.returncode == 4
    assert "rejects this token" in ended.stderr
    assert "wrong" not in ended.stderr


def test_a_wrong_token_of_a_driver_is_one_clear_sentence(terminal: Terminal) -> None:
    facts = json.loads((terminal.folder / "cache" / "local-cluster.json").read_text())
    token = {"RAY_ADDRESS": facts["gcs_address"], "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    ended = terminal.rayloom("run", terminal.job("unknown"), **token)
    assert ended.returncode == 4, ended.stderr
    assert ended.stderr.count("error: ") == 1
    assert "The cluster rejects this token" in ended.stderr


def test_a_second_cluster_is_not_started_over_the_first(terminal: Terminal) -> None:
    ended = terminal.rayloom("cluster", "up")
    assert ended.returncode == 3
    assert "A local cluster runs already" in ended.stderr


@pytest.mark.parametrize(
    ("workers", "wanted"),
    [
        ("num_workers: 64", "64 workers with 1 CPUs each"),
        ("gpus_per_worker: 1", "1 worker with 1 CPUs and 1 GPUs each, and there is room for 0 on 2 nodes"),
    ],
)
def test_a_job_that_does_not_fit_is_refused_before_it_is_sent(terminal: Terminal, workers: str, wanted: str) -> None:
    (terminal.folder / "large.yaml").write_text(
        "kind: train\nname: large\nbase: artifact:m\ndata: {type: corpus, corpus: 'artifact:c'}\n"
        f"global_batch_tokens: 65536\nnum_steps: 1\nlearning_rate: 1e-3\nworkers: {{{workers}}}\n"
    )
    ended = terminal.rayloom("submit", "large.yaml")
    assert ended.returncode == 4
    assert f"large does not fit on this cluster: it needs {wanted}" in ended.stderr


def test_a_full_disk_under_the_store_is_one_clear_sentence(terminal: Terminal) -> None:
    disk = terminal.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        (terminal.folder / "thick").mkdir()
        (terminal.folder / "thick" / "a.jsonl").write_text('{"text": "one"}\n' * 100_000)
        ended = terminal.rayloom("submit", terminal.job("thick", "./thick"), "--wait", "--store", f"{disk}/store")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert ended.returncode == 4, ended.stderr
    assert ended.stderr.count("error: ") == 1
    assert "error: The disk is full" in ended.stderr
