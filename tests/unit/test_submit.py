"""What is sent to a cluster, and what its answers mean; the Jobs API is played by a small HTTP server."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rayloom.cli import main
from rayloom.errors import InputError, ResourceError
from rayloom.kinds import SPECS
from rayloom.specs.files.load import Job, load
from rayloom.specs.train import TrainSpec
from rayloom.submit.jobs_api import ClusterJob, JobsApi, Node, token_here
from rayloom.submit.package import code_package, job_package
from rayloom.submit.resource_requests import check_fits
from rayloom.submit.submission import Submission, check_store, retry, submit

TRAIN = (
    "kind: train\nname: tuned\nbase: {base}\ndata: {{type: corpus, corpus: 'artifact:c'}}\nglobal_batch_tokens: 4096\n"
    "num_steps: 1\nlearning_rate: 1e-3\nworkers: {{num_workers: 2, cpus_per_worker: 3, gpus_per_worker: 0}}\n"
)


class Handler(BaseHTTPRequestHandler):
    """Answers as Ray's dashboard does, from the jobs and packages of its server's `cluster`."""

    def log_message(self, *_: object) -> None:
        pass

    @property
    def cluster(self) -> Cluster:
        return self.server.cluster  # type: ignore[attr-defined, no-any-return]

    def answer(self, code: int, body: object) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def allowed(self) -> bool:
        given = self.headers.get("Authorization")
        if given is None:
            self.answer(401, b"Unauthorized: Missing authentication token")
        elif given != f"Bearer {self.cluster.token}":
            self.answer(403, b"Forbidden: Invalid authentication token")
        return given == f"Bearer {self.cluster.token}"

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_GET(self) -> None:
        answers = {
            "/api/version": (200, {"ray_version": self.cluster.ray_version}),
            "/api/jobs/": (200, [*self.cluster.jobs, {"type": "DRIVER", "submission_id": None}]),
            "/api/broken": (500, b"Traceback\nValueError: the last line says why"),
            **{f"/api/jobs/{job['submission_id']}": (200, job) for job in self.cluster.jobs},
            **{f"/api/packages/gcs/{name}": (200, {}) for name in self.cluster.packages},
        }
        if self.allowed():
            self.answer(*answers.get(self.path, (404, b"does not exist")))

    def do_POST(self) -> None:
        request = json.loads(self.body())
        if self.allowed():
            started = len(self.cluster.jobs) + 1
            self.cluster.jobs.append({**request, "status": "PENDING", "start_time": started})
            self.answer(200, {"submission_id": request["submission_id"]})

    def do_PUT(self) -> None:
        content = self.body()
        if self.allowed():
            self.cluster.uploads += 1
            self.cluster.packages[self.path.rpartition("/")[2]] = content
            self.answer(200, {})


class Cluster:
    """A cluster with jobs in memory."""

    def __init__(self) -> None:
        self.token = "right"
        self.ray_version = "2.60.0"
        self.jobs: list[dict[str, Any]] = []
        self.packages: dict[str, bytes] = {}
        self.uploads = 0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.cluster = self  # type: ignore[attr-defined]
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def api(cluster: Cluster) -> JobsApi:
    return JobsApi(cluster.address, "right")


def job_at(folder: Path, base: str = "artifact:m") -> Job:
    (folder / "job.yaml").write_text(TRAIN.format(base=base))
    return load(folder / "job.yaml", SPECS)


def submission_of(job: Job, store: str = "/shared/store") -> Submission:
    files = job_package(job)
    return Submission(job.spec.name, job.spec.kind, job.file.name, code_package(), files, ("seed=1",), store, {})


def names_in(content: bytes) -> set[str]:
    return set(zipfile.ZipFile(io.BytesIO(content)).namelist())


def test_linked_folders_are_sent_under_the_names_of_their_links(tmp_path: Path) -> None:
    for name in ("elsewhere", "parts", "job"):
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text("{}")
    (tmp_path / "parts" / "more.txt").write_text("x")
    (tmp_path / "job" / "model").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "parts").symlink_to(tmp_path / "parts")
    names = names_in(job_package(job_at(tmp_path / "job", "./model")).package.content)
    assert names == {"job.yaml", "model/config.json", "model/parts/more.txt"}


def test_the_code_travels_as_it_is_installed_here_and_has_one_name() -> None:
    package = code_package()
    names = names_in(package.content)
    assert {"rayloom/cli.py", "rayloom/templates/serve.yaml", "rayloom/py.typed"} <= names
    assert any(name.endswith(".dist-info/METADATA") for name in names)
    assert not any("__pycache__" in name for name in names)
    assert code_package().name == package.name


def test_a_job_takes_its_stages_and_the_local_paths_that_they_name(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "pipeline.yaml").write_text(
        "kind: pipeline\nname: chain\nstages: [{name: one, job: ../job.yaml}]"
    )
    stage = job_at(tmp_path, "./model")
    files = job_package(load(tmp_path / "deep" / "pipeline.yaml", SPECS), [stage])
    assert names_in(files.package.content) == {"deep/pipeline.yaml", "job.yaml", "model/config.json"}
    assert files.file == "deep/pipeline.yaml"


def test_a_search_takes_the_training_job_that_it_varies(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    job_at(tmp_path, "./model")
    (tmp_path / "tune.yaml").write_text(
        "kind: tune\nname: search\ntrain: job.yaml\n"
        "space: {learning_rate: {type: loguniform, low: 1e-5, high: 1e-3}}\n"
        "budget: {num_trials: 2}\nscheduler: {type: none}\n"
    )
    search = load(tmp_path / "tune.yaml", SPECS)
    assert names_in(job_package(search).package.content) == {"tune.yaml", "job.yaml", "model/config.json"}
    assert len(search.spec.bundles()) == 2, "one for each worker of a trial"


def test_paths_that_cannot_travel_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="base names a path that does not exist"):
        job_package(job_at(tmp_path, "./nowhere"))
    with pytest.raises(InputError, match="base is in a home folder, which the cluster does not have"):
        job_package(job_at(tmp_path, "~/model"))
    (tmp_path / "large").mkdir()
    with (tmp_path / "large" / "weights").open("wb") as file:
        file.truncate(100_000_001)
    with pytest.raises(InputError, match=r"local files are 100 MB, .*artifact:NAME"):
        job_package(job_at(tmp_path, "./large"))
    assert names_in(job_package(job_at(tmp_path, "/shared/model")).package.content) == {"job.yaml"}


@pytest.mark.parametrize("store", ["", "store", "./store", "../store"])
def test_a_store_that_means_another_place_on_each_node_is_refused(store: str) -> None:
    with pytest.raises(InputError):
        check_store(store)


@pytest.mark.parametrize("store", ["/shared/store", "s3://bucket/prefix"])
def test_a_store_that_all_nodes_can_name_is_taken(store: str) -> None:
    check_store(store)


def test_submitting_twice_runs_once_and_uploads_once(tmp_path: Path, cluster: Cluster, api: JobsApi) -> None:
    submission = submission_of(job_at(tmp_path))
    first, was_new = submit(api, submission)
    again, was_new_again = submit(api, submission)
    assert (was_new, was_new_again) == (True, False)
    assert first.id == again.id == submission.base_id
    assert (len(cluster.jobs), cluster.uploads) == (1, 2)
    request = cluster.jobs[0]
    assert request["entrypoint"] == "python -m rayloom run job.yaml --set seed=1"
    assert request["entrypoint_num_cpus"] == 1
    assert request["runtime_env"]["env_vars"]["RAYLOOM_STORE"] == "/shared/store"
    assert float(request["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60
    assert set(cluster.packages) == {submission.code.name, submission.files.package.name}
    cluster.jobs[0]["status"] = "SUCCEEDED"
    assert submit(api, submission)[1] is False


def test_other_content_is_another_job(tmp_path: Path) -> None:
    ids = {submission_of(job_at(tmp_path)).base_id, submission_of(job_at(tmp_path), "/other").base_id}
    ids.add(submission_of(job_at(tmp_path, "artifact:other")).base_id)
    assert len(ids) == 3


@pytest.mark.parametrize("ended", ["FAILED", "STOPPED"])
def test_a_job_that_ended_badly_is_tried_again_under_a_new_id(
    ended: str, tmp_path: Path, cluster: Cluster, api: JobsApi
) -> None:
    submission = submission_of(job_at(tmp_path))
    first, _ = submit(api, submission)
    cluster.jobs[0]["status"] = ended
    second, was_new = submit(api, submission)
    assert (was_new, second.id) == (True, f"{first.id}-2")
    with pytest.raises(InputError, match="is pending: there is nothing to retry"):
        retry(api, second)
    cluster.jobs[1]["status"] = ended
    third = retry(api, api.find("tuned"))
    assert third.id == f"{first.id}-3"
    assert third.entrypoint == second.entrypoint
    assert third.metadata["rayloom_attempt"] == "3"


def test_a_job_is_found_by_id_or_by_its_newest_name(tmp_path: Path, cluster: Cluster, api: JobsApi) -> None:
    submission = submission_of(job_at(tmp_path))
    submit(api, submission)
    cluster.jobs[0]["status"] = "FAILED"
    newest, _ = submit(api, submission)
    assert api.find("tuned") == newest
    assert api.find(submission.base_id).status == "FAILED"
    with pytest.raises(InputError, match="There is no job 'other'"):
        api.find("other")


@pytest.mark.parametrize(
    ("token", "message"),
    [(None, "The cluster requires a token"), ("wrong", "rejects this token")],
)
def test_a_missing_or_wrong_token_is_said(cluster: Cluster, token: str | None, message: str) -> None:
    with pytest.raises(ResourceError, match=f"{message}.*RAY_AUTH_TOKEN") as caught:
        JobsApi(cluster.address, token).jobs()
    assert "wrong" not in str(caught.value)


def test_an_address_where_nothing_answers_is_said() -> None:
    with pytest.raises(ResourceError, match=r"No cluster answers: .*refused"):
        JobsApi("http://127.0.0.1:1", None).jobs()
    with pytest.raises(InputError, match="not the address of a cluster's Jobs API"):
        JobsApi("127.0.0.1:8265", None)


def test_what_is_not_ray_is_said(api: JobsApi) -> None:
    with pytest.raises(ResourceError, match="The cluster answered 500: ValueError: the last line says why"):
        api._json("GET", "/api/broken")


def test_the_token_is_where_ray_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert token_here() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n")
    assert token_here() == "home"
    (tmp_path / "file").write_text("file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "file"))
    assert token_here() == "file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "variable")
    assert token_here() == "variable"


def node(cpus: float, gpus: float = 0) -> Node:
    return Node("n", "10.0.0.1", False, {"CPU": cpus, "GPU": gpus})


def test_a_job_that_no_nodes_can_hold_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    spec = job_at(tmp_path).spec
    assert isinstance(spec, TrainSpec)
    assert [bundle.cpus for bundle in spec.bundles()] == [3, 3]
    assert check_fits([spec], [node(6)], False) == []
    assert check_fits([spec], [node(4), node(4)], False) == []
    with pytest.raises(
        ResourceError, match="needs 2 workers with 3 CPUs each, and there is room for 1 on 2 nodes with 7 CPUs"
    ):
        check_fits([spec], [node(5), node(2)], False)
    (note,) = check_fits([spec], [node(2)], True)
    assert "autoscaler must add nodes" in note
    gpu = spec.model_copy(update={"workers": spec.workers.model_copy(update={"gpus_per_worker": 1})})
    with pytest.raises(ResourceError, match="3 CPUs and 1 GPUs"):
        check_fits([gpu], [node(64)], False)
    assert check_fits([gpu], [node(64, 2)], False) == []


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        (
            "FAILED",
            "Job failed, last logs:\nRunning\nerror: There is no artifact x.\nmore",
            "error: There is no artifact x.",
        ),
        ("FAILED", "Ray lost the node\nand more", "Ray lost the node"),
        ("PENDING", "Waiting for 4 CPUs", "Waiting for 4 CPUs"),
        ("SUCCEEDED", "Job finished successfully.", ""),
        ("FAILED", "", ""),
    ],
)
def test_the_reason_of_a_failure_is_one_line(status: str, message: str, reason: str) -> None:
    assert ClusterJob("i", status, message, "", {}, {}, 0, None, None).reason == reason


def test_the_command_says_what_is_wrong_before_sending(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYLOOM_CACHE", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    monkeypatch.delenv("RAYLOOM_STORE", raising=False)
    job = job_at(tmp_path)
    command = ["submit", str(job.file), "--address", cluster.address]
    assert main(command) == 3
    assert "needs a store that every node of the cluster can read" in capsys.readouterr().err
    cluster.ray_version = "2.9.0"
    assert main([*command, "--store", "/shared"]) == 4
    assert "The cluster runs Ray 2.9.0, and here is 2." in capsys.readouterr().err
    assert cluster.jobs == []


def test_a_hundred_jobs_are_listed(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYLOOM_CACHE", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    for number in range(100):
        cluster.jobs.append({"submission_id": f"job-{number}", "status": "RUNNING", "start_time": 1000 + number})
    assert main(["jobs", "list", "--address", cluster.address]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 101
    assert "job-99" in lines[-1]
    assert main(["jobs", "list", "--address", cluster.address, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 100


FOLLOWING = """
import asyncio, os, signal, sys, threading
from aiohttp import web
from rayloom.submit.jobs_api import log_pieces

async def tail(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_str("first line")
    await asyncio.sleep(60)

def serve(started):
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_get("/api/jobs/{id}/logs/tail", tail)
    runner = web.AppRunner(app)
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    loop.run_until_complete(site.start())
    started.append(site._server.sockets[0].getsockname()[1])
    loop.run_forever()

started = []
threading.Thread(target=serve, args=(started,), daemon=True).start()
while not started:
    pass
pieces = log_pieces(f"http://127.0.0.1:{started[0]}", "job", {})
print(next(pieces))
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    next(pieces)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_following_a_log_ends_by_ctrl_c_and_not_by_an_error_of_ours() -> None:
    ended = subprocess.run([sys.executable, "-c", FOLLOWING], capture_output=True, text=True, check=False, timeout=60)
    assert ended.stdout.splitlines() == ["first line", "interrupted"]
    assert ended.stderr == ""
