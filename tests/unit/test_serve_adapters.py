"""Adapters of the store on a served model: names that stay in the store, which fit, and shares of versions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rayloom.artifacts.build import Build, ResolvedJob, build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.serve.gateway.routes import REMEMBER_SECONDS, Route, Routes, VersionShare, shares_of, single_versions
from rayloom.serve.replicas.adapters import AdapterCatalog, compatible_bases, load_problems
from rayloom.serve.transport.relay import Call, Refusal
from rayloom.specs.base import Content, JobSpec
from rayloom.specs.serve import Adapters

LORA: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


class MadeSpec(JobSpec):
    """One file with a text."""

    kind: str = "made"
    text: str


def made(store: Store, name: str, content: Content, file: str, text: str, **parents: Artifact) -> Artifact:
    def stage(_: JobSpec, build: Build) -> Outcome:
        (build.directory / file).write_text(text)
        return Outcome(content)

    return build(ResolvedJob(MadeSpec(name=name, text=text), 1, parents, Path("/nowhere")), store, stage)[0]


def base(store: Store, name: str = "base") -> Artifact:
    return made(store, name, "model", "weights", name)


def adapter(store: Store, name: str, on: Artifact, **config: Any) -> Artifact:
    return made(store, name, "adapter", "adapter_config.json", json.dumps(LORA | config), base=on)


def catalog(store: Store, model: Artifact, **spec: Any) -> AdapterCatalog:
    return AdapterCatalog(store, "m", Adapters(**spec), compatible_bases(model))


def test_an_adapter_is_found_by_name_and_the_engines_name_has_its_version(store: Store) -> None:
    model = base(store)
    tuned = adapter(store, "tuned", model)
    found = catalog(store, model).resolve("tuned")
    assert found.engine_name == f"m:tuned@{tuned.manifest.version}"
    assert catalog(store, model).resolve(f"tuned@{tuned.manifest.version[:8]}") == found


def test_a_newer_version_has_another_name_for_the_engine(store: Store) -> None:
    model = base(store)
    adapter(store, "tuned", model)
    before = catalog(store, model).resolve("tuned").engine_name
    adapter(store, "tuned", model, seed=1)
    assert catalog(store, model).resolve("tuned").engine_name != before


@pytest.mark.parametrize(
    "reference", ["..", "../base", "/etc/passwd", "tuned/..", "", "Tuned", "tuned@zz", "tuned\n", "a" * 64]
)
def test_a_name_cannot_reach_outside_the_store(store: Store, reference: str) -> None:
    model = base(store)
    adapter(store, "tuned", model)
    with pytest.raises(InputError, match="no such adapter"):
        catalog(store, model).resolve(reference)


def test_what_is_no_adapter_of_this_model_is_refused_with_the_reason(store: Store) -> None:
    model, other = base(store), base(store, "other")
    adapter(store, "foreign", other)
    adapter(store, "big", model, r=64)
    here = catalog(store, model)
    for reference, reason in (
        ("foreign", "trained on another model"),
        ("big", "rank is 64"),
        ("base", "it is a model"),
    ):
        with pytest.raises(InputError, match=reason):
            here.resolve(reference)
    with pytest.raises(InputError, match="no artifact"):
        here.resolve("missing")


def test_a_plan_can_say_which_adapters_will_not_load(store: Store) -> None:
    model, other = base(store), base(store, "other")
    adapter(store, "fits", model)
    adapter(store, "foreign", other)
    big = adapter(store, "big", model, r=64)
    here = catalog(store, model)
    assert here.names() == ["m:fits"]
    assert here.unusable() == {big.id: "its rank is 64, and adapters.max_rank is 16"}


def test_only_allowed_adapters_are_served(store: Store) -> None:
    model = base(store)
    adapter(store, "yes", model)
    adapter(store, "no", model)
    some = catalog(store, model, allow=("yes",))
    assert some.names() == ["m:yes"]
    some.resolve("yes")
    with pytest.raises(InputError, match="no such adapter"):
        some.resolve("no")
    assert catalog(store, model).names() == ["m:no", "m:yes"]


def test_new_adapters_are_there_without_a_restart_and_removed_ones_are_not(store: Store) -> None:
    model = base(store)
    here = catalog(store, model)
    assert here.names() == []
    tuned = adapter(store, "tuned", model)
    assert here.names() == ["m:tuned"]
    store.remove("tuned", tuned.manifest.version)
    assert here.names() == []
    with pytest.raises(InputError):
        here.resolve("tuned")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "biases"),
        ({"modules_to_save": ["embed_tokens"]}, "embed_tokens"),
        ({"rank_pattern": {"q_proj": 32}}, "rank is 32"),
        ({"peft_type": "PREFIX_TUNING"}, "LoRA only"),
    ],
)
def test_what_vllm_does_not_load_is_known_from_the_config(config: dict[str, Any], reason: str) -> None:
    (found,) = load_problems(LORA | config, max_rank=16)
    assert reason in found


def test_a_plain_adapter_loads() -> None:
    assert load_problems(LORA | {"modules_to_save": None, "rank_pattern": {}}, max_rank=16) == []


# -- routes ------------------------------------------------------------------------------------------------------------


@dataclass
class Named:
    """A backend that is never asked here."""

    name: str

    def ask(self, call: Call) -> AsyncGenerator[bytes, None]:
        raise AssertionError(call)


def found_backend(routes: Routes, name: str) -> str:
    backend = asyncio.run(routes.resolve(name)).backend
    assert isinstance(backend, Named)
    return backend.name


def routes_of(shares: dict[str, float], draw: Callable[[], float]) -> Routes:
    return Routes({"m": Route(shares_of(VersionShare(Named(name), share) for name, share in shares.items()))}, draw)


@pytest.mark.parametrize(("draw", "version"), [(0.0, "old"), (0.89, "old"), (0.91, "new"), (0.9999999, "new")])
def test_a_version_gets_its_share_of_the_requests(draw: float, version: str) -> None:
    assert found_backend(routes_of({"old": 0.9, "new": 0.1}, lambda: draw), "m") == version


def test_shares_must_add_up() -> None:
    with pytest.raises(ValueError, match=r"0\.9"):
        routes_of({"old": 0.9}, lambda: 0.0)


def test_an_unknown_model_and_an_adapter_of_a_model_without_any_are_404s() -> None:
    for name in ("other", "m:tuned", ""):
        with pytest.raises(Refusal) as refused:
            asyncio.run(single_versions({"m": Named("m")}).resolve(name))
        assert (refused.value.status, refused.value.code) == (404, "model_not_found")


def test_the_store_is_not_read_for_every_request(store: Store) -> None:
    model, now = base(store), [0.0]
    routes = Routes(
        {"m": Route((VersionShare(Named("m"), 1.0),), catalog(store, model))}, draw=lambda: 0.0, clock=lambda: now[0]
    )
    with pytest.raises(Refusal):
        asyncio.run(routes.resolve("m:tuned"))
    adapter(store, "tuned", model)
    with pytest.raises(Refusal):
        asyncio.run(routes.resolve("m:tuned"))
    now[0] = REMEMBER_SECONDS + 1
    assert asyncio.run(routes.resolve("m:tuned")).adapter.startswith("m:tuned@")
    assert asyncio.run(routes.names()) == ["m", "m:tuned"]
