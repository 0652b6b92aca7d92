"""A service on KubeRay: valid by its closed schemas and by Ray Serve's own, with the applications that `run` starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray import serve
from ray._common.utils import import_attr
from ray.serve.schema import ServeDeploySchema
from support.artifacts import note
from support.crds import problems

from rayloom.artifacts.build import Build, build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact, Store
from rayloom.cli import main
from rayloom.errors import InputError
from rayloom.serve import applications
from rayloom.serve.api_keys import KeyRing, mounted
from rayloom.serve.applications import model_application
from rayloom.serve.lifecycle import gateway_settings, versions_of
from rayloom.serve.replicas.engine_settings import EngineSettings
from rayloom.specs.base import JobSpec
from rayloom.specs.files.load import load
from rayloom.specs.serve import ServedModel, ServeSpec

SERVE = """\
kind: serve
name: team.endpoint
port: 8123
gateway_replicas: 3
doors: {keys_required: true, max_answer_tokens: 100}
models:
  - name: small
    model: artifact:small
    autoscaling: {min_replicas: 0, max_replicas: 2}
  - name: large
    model: artifact:large
    engine: {cpus_per_replica: 2, gpus_per_replica: 4}
    autoscaling: {max_replicas: 3}
"""
KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "serve.yaml").write_text(SERVE)
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    capsys.readouterr()
    assert main(["manifest", "serve.yaml", "--image", "rayloom:1", "--store", "/store", *arguments]) == 0
    config, service = yaml.safe_load_all(capsys.readouterr().out)
    return config, service


def container(service: dict[str, Any], group: dict[str, Any] | None = None) -> dict[str, Any]:
    described = group or service["spec"]["rayClusterConfig"]["headGroupSpec"]
    found: dict[str, Any] = described["template"]["spec"]["containers"][0]
    return found


@pytest.mark.parametrize(
    "arguments",
    [(), ("--api-keys", "team-keys", "--store-claim", "c"), ("--spot", "cloud.google.com/gke-spot=true")],
    ids=["plain", "keys", "spot"],
)
def test_it_is_valid_by_kuberays_closed_schema_and_by_ray_serves(
    arguments: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, service = printed(capsys, *arguments)
    assert service["kind"] == "RayService"
    assert problems(service) == []
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    # Unknown keys are dropped by Ray's schema, so what it read must be what was written.
    read = ServeDeploySchema.model_validate(config).model_dump(mode="json", exclude_unset=True)
    assert read == config
    assert read["http_options"] == {"host": "0.0.0.0", "port": 8123}


def test_the_cluster_has_a_token_room_for_every_replica_and_no_request_on_the_head(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, service = printed(capsys, "--spot", "cloud.google.com/gke-spot=true")
    spec, cluster = service["spec"], service["spec"]["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert spec["excludeHeadPodFromServeSvc"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert {port["name"]: port["containerPort"] for port in container(service)["ports"]}["serve"] == 8123
    most = {group["groupName"]: group["maxReplicas"] for group in cluster["workerGroupSpecs"]}
    assert most == {"cpu1-spot": 3, "cpu1": 3, "cpu8-gpu4-spot": 3, "cpu8-gpu4": 3}
    large = container(service, cluster["workerGroupSpecs"][-1])
    assert large["resources"]["limits"] | {"memory": ""} == {"cpu": "9", "memory": "", "nvidia.com/gpu": "4"}


def test_keys_come_by_the_name_of_a_secret_which_the_gateway_finds_mounted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, service = printed(capsys, "--api-keys", "team-keys")
    mounts = {mount["name"]: mount for mount in container(service)["volumeMounts"]}
    assert mounts["keys"] == {"name": "keys", "mountPath": "/rayloom/keys", "readOnly": True}
    gateway = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][-1]
    assert gateway["args"]["keys_folder"] == mounts["keys"]["mountPath"]


def test_another_job_file_is_another_cluster_and_the_same_one_is_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, service = printed(capsys)
    assert printed(capsys) == (first, service)
    (folder / "serve.yaml").write_text(SERVE.replace("max_replicas: 3", "max_replicas: 4"))
    second, changed = printed(capsys)
    assert first["metadata"]["name"] != second["metadata"]["name"]
    volumes = changed["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["volumes"]
    assert second["metadata"]["name"] in [volume.get("configMap", {}).get("name") for volume in volumes]


def model(store: Store, name: str) -> Artifact:
    def stage(_: JobSpec, made: Build) -> Outcome:
        (made.directory / "config.json").write_text("{}")
        return Outcome("model")

    return build(note(name=name), store, stage)[0]


def options(application: serve.Application) -> dict[str, Any]:
    deployment = application._bound_deployment
    plain = deployment._deployment_config.model_dump(exclude={"user_configured_option_names"})
    return {
        "config": plain,
        "placed": deployment._replica_config.placement_group_bundles,
        "takes": deployment.init_args,
        "name": deployment.name,
    }


def test_its_applications_are_those_that_run_starts(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, service = printed(capsys, "--api-keys", "team-keys")
    store = Store(str(folder / "store"))
    artifacts = {name: model(store, name) for name in ("small", "large")}
    monkeypatch.setenv("RAYLOOM_STORE", store.uri)
    *models, gateway = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    # As the ConfigMap lays it out in the pods.
    for application in (*models, gateway):
        application["args"]["job"] = application["args"]["job"].replace("/rayloom/job", str(folder))
    built = {item["name"]: import_attr(item["import_path"])(item["args"]) for item in (*models, gateway)}

    spec = load(folder / "serve.yaml", {"serve": ServeSpec}).spec
    assert isinstance(spec, ServeSpec)
    parents = {f"models.{index}.model": artifacts[served.name] for index, served in enumerate(spec.models)}
    for wanted in versions_of(spec, parents, store).values():
        assert options(built[wanted.application]) == options(applications.model_application(wanted.engine, 3))
    front = options(built[spec.name])
    (settings,) = front["takes"]
    assert settings.keys_folder == "/rayloom/keys"
    assert settings.doors == gateway_settings(spec, store).doors
    assert front["config"]["num_replicas"] == 3
    shares = {name: route["shares"] for name, route in front["config"]["user_config"]["models"].items()}
    assert shares == {"small": [["team.endpoint.small.1", 1.0]], "large": [["team.endpoint.large.1", 1.0]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("keys_required: true, ", ""), "because it requires no API keys"),
        (("artifact:small", "hf://org/small"), "takes its models from the store"),
        (("artifact:small", "./model"), "A manifest carries job files only"),
    ],
)
def test_what_would_not_work_or_not_safely_is_refused(
    change: tuple[str, str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model").mkdir()
    (folder / "serve.yaml").write_text(SERVE.replace(*change))
    assert main(["manifest", "serve.yaml", "--image", "rayloom:1", "--store", "/s"]) == 3
    assert message in capsys.readouterr().err


def test_keys_of_a_mounted_secret_open_and_one_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    """Kubernetes mounts a Secret as links to files in a hidden folder."""
    version_folder = tmp_path / "..2026_11_22"
    version_folder.mkdir()
    (version_folder / "alice").write_text(f"{KEY}\n")
    (tmp_path / "..data").symlink_to(version_folder)
    (tmp_path / "alice").symlink_to(tmp_path / "..data" / "alice")
    ring = KeyRing((), mounted(tmp_path))
    owner = ring.owner(KEY)
    assert owner is not None
    assert owner.name == "alice"
    assert ring.owner(KEY[:-1]) is None
    (tmp_path / "bob").write_text("hunter2")
    with pytest.raises(InputError, match="too short to be safe") as caught:
        mounted(tmp_path)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("engine", "strategy"),
    [
        ({}, "STRICT_PACK"),
        ({"gpus_per_replica": 4}, "STRICT_PACK"),
        ({"gpus_per_replica": 4, "pipeline_stages": 2}, "PACK"),
    ],
)
def test_gpus_that_share_each_layer_are_on_one_node(engine: dict[str, Any], strategy: str) -> None:
    served = ServedModel.model_validate({"name": "m", "model": "artifact:m", "engine": engine})
    application = model_application(EngineSettings(served, "store", "m", "0"), num_gateways=1)
    assert application._bound_deployment._replica_config.placement_group_strategy == strategy
