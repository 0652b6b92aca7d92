"""What runs: states of runs from their logs and processes, curves while a log grows, trials of a search, stopping."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from support.ui_store import PORT, family, training_log, workbench

from rayloom.artifacts.lock import exclusive
from rayloom.serve import control_records
from rayloom.ui.application import application
from rayloom.ui.drawing.curves import MAX_POINTS, GrowingLog
from rayloom.ui.running.builds import LiveSearch
from rayloom.ui.running.job_logs import is_alive, run_of, runs
from rayloom.ui.workbench import Workbench

HERE = f"http://127.0.0.1:{PORT}"
ORIGIN = {"origin": HERE}
KEY = "a key of more than sixteen characters"

# A job that logs as `rayloom run` does, until it is stopped.
JOB = """
import signal, sys, time, os
from pathlib import Path
from rayloom.observe.job_log import logged_to, new_log, note
from rayloom.observe.progress import say
signal.signal(signal.SIGTERM, signal.default_int_handler)
log = new_log(Path(sys.argv[1]), "pipeline-chain").with_suffix(".jsonl")
with logged_to(log, "chain", "", {"file": sys.argv[2], "kind": "pipeline", "pid": os.getpid()}):
    note("stage clean: finished", of_stage="clean", state="finished", artifact="corpus@cccc00000001")
    note("stage train: running", of_stage="train", state="running")
    say("training: 30/120 steps, 2.5/s, 36 s left loss 2.31")
    print("ready", flush=True)
    if sys.argv[3:] == ["badly"]:
        raise ValueError("it <broke>")
    time.sleep(0 if sys.argv[3:] == ["well"] else 60)
"""
PIPELINE = """
kind: pipeline
name: chain
stages:
  - {name: clean, job: clean.yaml}
  - {name: train, job: train.yaml, needs: [clean]}
  - {name: evaluate, job: evaluate.yaml, needs: [train]}
"""


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    bench = workbench(tmp_path, may_write=True)
    family(bench.store)
    (tmp_path / "chain.yaml").write_text(PIPELINE)
    return bench


@pytest.fixture
def client(bench: Workbench) -> TestClient:
    return TestClient(application(bench), base_url=HERE)


def started(bench: Workbench, *ending: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", JOB, str(bench.store.log_directory), str(bench.folder / "chain.yaml"), *ending]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    return process


@pytest.fixture
def running(bench: Workbench) -> Iterator[subprocess.Popen[str]]:
    process = started(bench)
    yield process
    process.kill()
    process.wait()


def test_a_run_is_shown_with_its_progress_stages_and_log(running: subprocess.Popen[str], client: TestClient) -> None:
    page = client.get("/running/part").text
    assert re.search(r'<progress max="120" value="30"', page)
    log = re.search(r'href="(/running/jobs/[^"]+)"', page)
    assert log is not None
    part = client.get(f"{log[1]}/part").text
    assert "training: 30/120 steps" in part
    assert 'class="node finished"' in part
    assert 'class="node running"' in part
    assert "evaluate" in part
    assert part.count('class="edge"') == 2
    assert "/artifacts/corpus/cccc00000001" in part


def test_stopping_asks_the_process_to_end_and_it_is_said_so(
    running: subprocess.Popen[str], bench: Workbench, client: TestClient
) -> None:
    (run,) = runs(bench.store.log_directory)
    assert (run.state, run.pid) == ("running", running.pid)
    assert client.post(f"/running/jobs/{run.log}/stop").status_code == 403
    assert client.post(f"/running/jobs/{run.log}/stop", headers=ORIGIN, follow_redirects=False).status_code == 303
    assert running.wait(20) != 0
    assert run_of(bench.store.log_directory, run.log).state == "stopped"
    assert "does not run any more" in client.post(f"/running/jobs/{run.log}/stop", headers=ORIGIN).text


def test_a_server_that_only_reads_stops_nothing(
    running: subprocess.Popen[str], bench: Workbench, tmp_path: Path
) -> None:
    client = TestClient(application(workbench(tmp_path)), base_url=HERE)
    (run,) = runs(bench.store.log_directory)
    assert "only reads" in client.post(f"/running/jobs/{run.log}/stop", headers=ORIGIN).text
    assert "<form" not in client.get(f"/running/jobs/{run.log}").text
    assert running.poll() is None


@pytest.mark.parametrize(("ending", "state"), [("well", "finished"), ("badly", "failed")])
def test_how_a_run_ended_stands_in_its_log(bench: Workbench, client: TestClient, ending: str, state: str) -> None:
    started(bench, ending).wait(20)
    (run,) = runs(bench.store.log_directory)
    assert run.state == state
    assert "<broke>" not in client.get(f"/running/jobs/{run.log}/part").text
    assert "data-over" in client.get(f"/running/jobs/{run.log}/part").text


def test_a_process_that_is_gone_without_a_word_does_not_run(bench: Workbench) -> None:
    process = started(bench)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert runs(bench.store.log_directory)[0].state == "ended"


def test_another_process_with_the_same_number_is_not_the_run(bench: Workbench) -> None:
    folder = bench.store.log_directory
    folder.mkdir(parents=True)
    log = f"20200101-000000-{os.getpid()}-train-old.jsonl"
    (folder / log).write_text('{"text": "started", "state": "running", "file": "/x.yaml", "pid": 1}\n')
    run = run_of(folder, log)
    assert not is_alive(run)
    assert run.state == "ended"


@pytest.mark.parametrize("log", ["../../etc/passwd", "x.jsonl", "20200101-000000-1-train-a.jsonl"])
def test_a_log_that_is_not_there_is_no_page(client: TestClient, log: str) -> None:
    assert client.get(f"/running/jobs/{log}").status_code == 404


def test_curves_of_a_build_grow_with_its_log(bench: Workbench, client: TestClient) -> None:
    work = Path(bench.store.location("growing", "abab00000001")) / ".work"
    work.mkdir(parents=True)
    log = work / "metrics.jsonl"
    log.write_text(training_log(50))
    address = "/running/builds/growing/abab00000001"
    with exclusive(work.parents[1] / ".abab00000001.lock", lambda: None):
        bench.index.read_now()
        assert "in work" in client.get("/running/part").text
        first = client.get(f"{address}/curves.json").json()
        with log.open("a") as file:
            file.write('{"event": "step", "step": 51, "loss": 1.25}\n{"event": "st')
        began = time.monotonic()
        second = client.get(f"{address}/curves.json").json()
        assert time.monotonic() - began < 2
    losses = {one["name"]: one["y"] for one in second["charts"][0]["series"]}
    assert len(first["charts"][0]["series"][1]["y"]) == 50
    assert losses["training"][-1] == 1.25
    assert client.get("/running/builds/nothing/here").status_code == 404


def test_points_of_a_long_log_stay_few_and_keep_their_mean(tmp_path: Path) -> None:
    path, num_steps = tmp_path / "metrics.jsonl", 50_000
    path.write_text("".join(f'{{"event":"step","step":{n},"loss":{n % 2}}}\n' for n in range(num_steps)))
    log = GrowingLog(path).read()
    while not log.is_whole:
        log.read()
    points = log.charts["loss"]["training"].plain()
    assert MAX_POINTS <= len(points["x"]) <= 2 * MAX_POINTS
    assert set(points["y"][:-1]) == {0.5}
    assert points["x"][-1] > num_steps - 100


def test_a_log_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(training_log(50))
    log = GrowingLog(path).read()
    path.write_text(training_log(3))
    assert len(log.read().charts["loss"]["training"].y) == 3


def test_trials_of_a_search_are_read_without_touching_its_journal(tmp_path: Path) -> None:
    events = [
        {"type": "session", "at_seconds": 0.0},
        {"type": "created", "at_seconds": 0.1, "trial": 0, "values": {"learning_rate": 0.01}},
        {"type": "started", "at_seconds": 0.2, "trial": 0},
        {"type": "report", "at_seconds": 1.0, "trial": 0, "step": 10, "metrics": {"loss": 2.5}},
    ]
    path = tmp_path / "journal.jsonl"
    content = "".join(json.dumps(event) + "\n" for event in events) + '{"type": "repo'
    path.write_text(content)
    (trial,) = LiveSearch.read(path).trials
    assert (trial.is_running, trial.step, trial.metrics) == (True, 10, {"loss": 2.5})
    assert path.read_text() == content
    path.write_text("[]\n")
    assert "damaged" in LiveSearch.read(path).damage


def test_services_are_shown_with_versions_shares_and_replicas(bench: Workbench, client: TestClient) -> None:
    assert "No service of this store runs" in client.get("/services/part").text
    models = {"loomie": [{"artifact": "adapter@dddd00000002", "share": 0.25, "replicas": 3}]}
    state = control_records.ServiceState("chat", "http://127.0.0.1:8000", time.time(), models)
    control_records.write_state(bench.store, state)
    old = control_records.ServiceState("old", "http://127.0.0.1:8001", time.time() - 3600, {})
    control_records.write_state(bench.store, old)
    page = client.get("/services/part").text
    assert "/artifacts/adapter/dddd00000002" in page
    assert "25 %" in page
    assert page.index("chat") < page.index("old")


def test_a_cluster_that_does_not_answer_is_said_and_the_rest_is_shown(tmp_path: Path) -> None:
    bench = workbench(tmp_path)
    bench.cluster = "http://127.0.0.1:9"
    client = TestClient(application(bench), base_url=HERE)
    page = client.get("/running/part").text
    assert "No cluster answers" in page
    assert "No job ran here yet" in page
    assert "No cluster answers" in client.get("/running/cluster/x/part").text
