"""What a serve job may say: who is let in from where, and which profile can do what."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rayloom.specs.serve import ServeSpec


def spec(model: dict[str, Any] | None = None, **changes: Any) -> ServeSpec:
    served = {"name": "m", "model": "artifact:m"} | (model or {})
    return ServeSpec.model_validate({"kind": "serve", "name": "s", "models": [served]} | changes)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org"])
def test_an_address_that_others_reach_asks_for_keys(host: str) -> None:
    with pytest.raises(ValidationError, match=r"doors\.keys_required"):
        spec(host=host)
    assert spec(host=host, doors={"keys_required": True}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.53", "localhost", "::1"])
def test_this_machine_alone_may_go_without(host: str) -> None:
    assert spec(host=host).host == host


@pytest.mark.parametrize(
    "model",
    [{"adapters": {}}, {"autoscaling": {"max_replicas": 2}}],
    ids=["adapters", "autoscaling"],
)
def test_the_direct_profile_refuses_what_needs_a_gateway(model: dict[str, Any]) -> None:
    assert spec(model).profile == "full"
    with pytest.raises(ValidationError, match="profile: direct"):
        spec(model, profile="direct")


def test_the_direct_profile_serves_one_model() -> None:
    assert spec(profile="direct").is_direct
    two = [{"name": name, "model": "artifact:m"} for name in "ab"]
    with pytest.raises(ValidationError, match="one model"):
        spec(profile="direct", models=two)


def test_adapters_are_not_compiled_on_a_cpu() -> None:
    with pytest.raises(ValidationError, match=r"engine\.compiled"):
        spec({"adapters": {}, "engine": {"compiled": True}})


def test_more_adapters_at_once_than_are_kept_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_loaded"):
        spec({"adapters": {"max_loaded": 1, "max_at_once": 2}})


def test_limits_are_divided_among_all_that_take_requests() -> None:
    assert spec(gateway_replicas=4).num_gateways == 4
    direct = spec({"autoscaling": {"min_replicas": 2, "max_replicas": 2}}, profile="direct")
    assert direct.num_gateways == 2


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ({}, {"gateway_replicas": 4, "doors": {"requests_per_minute": 3}}, "divided among 4 gateways"),
        (
            {"autoscaling": {"min_replicas": 2, "max_replicas": 2}},
            {"profile": "direct", "doors": {"requests_per_minute": 1}},
            "divided among 2 gateways",
        ),
        ({"autoscaling": {"max_queued_requests": 3}}, {"gateway_replicas": 4}, "leaves a gateway without a queue"),
        ({"autoscaling": {"max_queued_requests": 0}}, {}, "leaves a gateway without a queue"),
        ({}, {"profile": "direct", "gateway_replicas": 2}, "leave out gateway_replicas"),
        ({}, {"profile": "direct", "gateway_nodes": "several"}, "leave out gateway_replicas and gateway_nodes"),
    ],
)
def test_a_limit_that_cannot_be_divided_is_refused(
    model: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        spec(model, **changes)


# -- the engine --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"gpu_memory_share": 0.5}, "gpu_memory_share needs GPUs"),
        ({"expert_parallel": True}, "expert_parallel needs GPUs"),
        ({"kv_cache": {"precision": "fp8"}}, "precision: fp8 needs GPUs"),
        ({"kv_cache": {"offload_bytes": 1 << 30}}, "offload_bytes needs GPUs"),
        (
            {"gpus_per_replica": 1, "gpu_memory_share": 0.5, "kv_cache": {"size_bytes": 1 << 30}},
            "leave out one of the two",
        ),
        ({"extra": {"max_num_seqs": 4}}, r"max_num_seqs \(use max_sequences\)"),
        ({"extra": {"trust_remote_code": True}}, "what Rayloom decides itself: trust_remote_code"),
        ({"extra": {"data_parallel_size": 2}}, "replicas here: set autoscaling"),
    ],
)
def test_engine_settings_that_have_no_effect_or_two_sources_are_refused(engine: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec({"engine": engine})
