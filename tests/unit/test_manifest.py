"""Kubernetes objects for KubeRay: valid by its closed schemas, with the job inside and nothing secret."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from support.crds import problems

from rayloom.cli import main
from rayloom.kinds import SPECS
from rayloom.specs.files.document import parse
from rayloom.specs.files.load import load_values, validate
from rayloom.specs.kubernetes import NodeValues

TRAIN = (
    "kind: train\nname: tuned.v1\nbase: artifact:m\ndata: {type: corpus, corpus: 'artifact:c'}\n"
    "global_batch_tokens: 4096\nnum_steps: 1\nlearning_rate: 1e-3\n"
    "workers: {num_workers: 4, cpus_per_worker: 3, gpus_per_worker: 1}\n"
)
MERGE = "kind: merge\nname: merged\nadapter: artifact:tuned.v1\n"
PIPELINE = """
kind: pipeline
name: chain
stages:
  - {name: a, job: sub/train.yaml}
  - {name: b, job: merge.yaml, needs: [a]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("RAYLOOM_STORE", raising=False)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "train.yaml").write_text(TRAIN)
    (tmp_path / "merge.yaml").write_text(MERGE)
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    return tmp_path


@pytest.fixture
def printed(folder: Path, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def prints(*arguments: str) -> str:
        capsys.readouterr()
        assert main(["manifest", *arguments, "--image", "rayloom:1"]) == 0
        return capsys.readouterr().out

    return prints


def objects(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    config, job = yaml.safe_load_all(text)
    return config, job


CHOICES = {
    "object store": ("sub/train.yaml", "--store", "s3://bucket/prefix"),
    "claim": ("sub/train.yaml", "--store", "/store", "--store-claim", "rayloom-store", "--namespace", "ml"),
    "secrets": ("merge.yaml", "--store", "/store", "--secret", "hub", "--secret", "bucket"),
    "spot": ("sub/train.yaml", "--store", "/store", "--spot", "cloud.google.com/gke-spot=true"),
    "pipeline": ("pipeline.yaml", "--store", "/store", "--retries", "5", "--worker-memory-gib", "64"),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_what_is_printed_is_valid_by_kuberays_closed_schema(choice: str, printed) -> None:  # type: ignore[no-untyped-def]
    _, job = objects(printed(*CHOICES[choice]))
    assert job["kind"] == "RayJob"
    assert problems(job) == []


def test_the_closed_schema_finds_typos_that_the_published_one_lets_pass(printed) -> None:  # type: ignore[no-untyped-def]
    _, job = objects(printed(*CHOICES["claim"]))
    for path in (("spec", "backofLimit"), ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "contaners")):
        wrong = copy.deepcopy(job)
        place = wrong
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = 1
        assert any(path[-1] in problem for problem in problems(wrong))


def test_the_job_files_come_back_as_they_were(printed, folder: Path) -> None:  # type: ignore[no-untyped-def]
    config, job = objects(printed(*CHOICES["pipeline"]))
    worker = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    items = next(volume for volume in worker["volumes"] if volume["name"] == "job")["configMap"]["items"]
    placed = {item["path"]: config["data"][item["key"]] for item in items}
    assert placed == {path: (folder / path).read_text() for path in ("pipeline.yaml", "sub/train.yaml", "merge.yaml")}
    assert job["spec"]["entrypoint"] == "python -m rayloom run /rayloom/job/pipeline.yaml"
    assert validate(parse(placed["sub/train.yaml"], "x"), SPECS).name == "tuned.v1"


def test_workers_have_room_for_what_the_spec_asks(printed) -> None:  # type: ignore[no-untyped-def]
    _, job = objects(printed(*CHOICES["claim"]))
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert group["maxReplicas"] == 1
    assert limits["nvidia.com/gpu"] == "4"
    assert float(limits["cpu"]) >= 4 * 3 + job["spec"]["entrypointNumCpus"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert job["metadata"]["namespace"] == "ml"
    mounts = group["template"]["spec"]["containers"][0]["volumeMounts"]
    assert {"name": "store", "mountPath": "/store"} in mounts


def test_orphans_are_reaped_in_every_pod(printed) -> None:  # type: ignore[no-untyped-def]
    """Ray as a pod's first process reaps none, and the stop of a job waits for all its processes."""
    cluster = objects(printed(*CHOICES["spot"]))[1]["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["spec"]["shareProcessNamespace"] is True


def test_spot_workers_are_asked_for_first_and_others_stand_behind_them(printed) -> None:  # type: ignore[no-untyped-def]
    _, job = objects(printed(*CHOICES["spot"]))
    spot, steady = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert spot["priority"] > steady["priority"]
    assert spot["template"]["spec"]["nodeSelector"] == {"cloud.google.com/gke-spot": "true"}
    assert "nodeSelector" not in steady["template"]["spec"]
    assert spot["labels"] == {"ray.io/market-type": "spot"}


def test_nothing_secret_stands_in_it_and_the_cluster_asks_for_a_token(printed) -> None:  # type: ignore[no-untyped-def]
    text = printed(*CHOICES["secrets"])
    assert "hf_secret" not in text
    _, job = objects(text)
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    container = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert container["envFrom"] == [{"secretRef": {"name": "hub"}}, {"secretRef": {"name": "bucket"}}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("merge.yaml",), "needs a store that every node of the cluster can read"),
        (("merge.yaml", "--store", "s3://b", "--store-claim", "c"), "A volume claim needs a store that is a path"),
        (("merge.yaml", "--store", "/s", "--spot", "true"), "--spot must be LABEL=VALUE"),
        (("merge.yaml", "--store", "/s", "--api-keys", "k"), "--api-keys is for services"),
        (("local.yaml", "--store", "/s"), "A manifest carries job files only"),
        (("missing.yaml", "--store", "/s"), "There is no such job file"),
    ],
)
def test_what_cannot_work_is_refused(
    arguments: tuple[str, ...], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model").mkdir()
    (folder / "local.yaml").write_text(TRAIN.replace("artifact:m", "./model"))
    assert main(["manifest", *arguments, "--image", "rayloom:1"]) == 3
    assert message in capsys.readouterr().err


def pods(text: str) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = objects(text)[1]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return groups


def container(group: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = group["template"]["spec"]["containers"][0]
    return found


JOBS = {
    "elastic": (
        TRAIN.replace("num_workers: 4", "num_workers: 16, min_workers: 2").replace("4096", "1048576"),
        [("8", 2, 8 * 96)],
    ),
    "predict": (
        "kind: predict\nname: p\nmodel: artifact:m\ndata: artifact:d\nnum_workers: 4\ngpus_per_worker: 1\n",
        [("4", 1, 4 * 96)],
    ),
    "quantize": (
        "kind: quantize\nname: q\nmodel: artifact:m\nscheme: {type: int8}\nrows_of: artifact:t\nnum_gpus: 1\n",
        [("1", 1, 96)],
    ),
    "clean": (
        "kind: clean\nname: c\nsources: [{name: a, dataset: 'artifact:d', format: {type: jsonl}, domain: web}]\n"
        "output: {type: tokens, tokenizer: {type: train}}\n",
        [(None, 8, 8)],
    ),
    "tune": (
        "kind: tune\nname: t\ntrain: sub/train.yaml\nscheduler: {type: none}\nbudget: {num_trials: 6}\n"
        "space: {learning_rate: {type: loguniform, low: 1.e-4, high: 1.e-2}}\nresources: {max_concurrent_trials: 4}\n",
        [("8", 2, 8 * 96)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", JOBS)
def test_groups_are_what_the_job_can_use_by_whole_machines(name: str, folder: Path, printed) -> None:  # type: ignore[no-untyped-def]
    text, expected = JOBS[name]
    (folder / "job.yaml").write_text(text)
    printed_text = printed("job.yaml", "--store", "s3://bucket/x")
    found = []
    for group in pods(printed_text):
        limits = container(group)["resources"]["limits"]
        memory_gib = int(limits["memory"].removesuffix("Mi")) / 1024
        found.append((limits.get("nvidia.com/gpu"), group["maxReplicas"], memory_gib))
        taints = [taint["key"] for taint in group["template"]["spec"].get("tolerations", [])]
        assert taints == (["nvidia.com/gpu"] if limits.get("nvidia.com/gpu") else [])
    assert found == expected
    assert problems(objects(printed_text)[1]) == []


NODES = """
gpus_per_node: 4
tolerations: [{key: team, value: ml}]
cache: {gib: 100, storage_class: fast}
gpu_pod_devices: {vpc.amazonaws.com/efa: 4}
queue: team-a
priority_class: production
"""


def test_what_only_the_clusters_owner_knows_comes_from_a_file(folder: Path, printed) -> None:  # type: ignore[no-untyped-def]
    (folder / "nodes.yaml").write_text(NODES)
    text = printed("sub/train.yaml", "--store", "s3://bucket/x", "--nodes", "nodes.yaml")
    job = objects(text)[1]
    assert problems(job) == []
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "production"
    assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is False
    (group,) = pods(text)
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (1, 1, 1)
    limits = container(group)["resources"]["limits"]
    assert (limits["nvidia.com/gpu"], limits["vpc.amazonaws.com/efa"]) == ("4", "4")
    assert container(group)["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    pod = group["template"]["spec"]
    assert pod["priorityClassName"] == "production"
    assert {"key": "team", "operator": "Equal", "value": "ml", "effect": "NoSchedule"} in pod["tolerations"]
    cache = next(volume for volume in pod["volumes"] if volume["name"] == "cache")
    assert cache["ephemeral"]["volumeClaimTemplate"]["spec"]["storageClassName"] == "fast"
    environment = {entry["name"]: entry.get("value") for entry in container(group)["env"]}
    assert environment["RAYLOOM_CACHE"] == "/rayloom/cache"
    assert environment["RAYLOOM_CACHE_BYTES"] == str(90 << 30)


def test_a_cache_may_be_a_folder_of_the_machine_that_outlives_pods(folder: Path, printed) -> None:  # type: ignore[no-untyped-def]
    (folder / "nodes.yaml").write_text("cache: {gib: 100, host_path: /var/lib/rayloom}\n")
    text = printed("sub/train.yaml", "--store", "s3://bucket/x", "--nodes", "nodes.yaml")
    assert problems(objects(text)[1]) == []
    volumes = pods(text)[0]["template"]["spec"]["volumes"]
    cache = next(volume for volume in volumes if volume["name"] == "cache")
    assert cache["hostPath"] == {"path": "/var/lib/rayloom", "type": "Directory"}
    with pytest.raises(ValidationError, match="leave out one"):
        NodeValues.model_validate({"cache": {"gib": 1, "host_path": "/x", "storage_class": "fast"}})


def test_the_file_of_machines_has_the_defaults_and_names_what_is_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = load_values(Path(__file__).parents[2] / "cluster" / "kuberay" / "nodes.yaml", NodeValues)
    assert shipped == NodeValues()
    (folder / "nodes.yaml").write_text("gpus_per_nod: 4\n")
    given = ["manifest", "merge.yaml", "--store", "s3://b", "--image", "i", "--nodes", "nodes.yaml"]
    assert main(given) == 2
    assert "gpus_per_node" in capsys.readouterr().err
