"""Dashboards and scraping: every figure that is shown is one that the code or an engine exports, and the other way."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import rayloom
from rayloom.observe.ray_metrics import DataMetrics, Score, ScoreBoard, TrainingMetrics

CLUSTER = Path(__file__).parents[2] / "cluster"
PACKAGE = Path(rayloom.__file__).parent
DASHBOARDS = sorted((CLUSTER / "grafana").glob("*.json"))
OWN_FILES = ("observe/ray_metrics.py", "serve/gateway/metrics.py")


def shown(path: Path) -> set[str]:
    """The names of metrics in a dashboard's queries."""
    return set(re.findall(r"\bray_[a-z_]+[a-z]", json.dumps(json.loads(path.read_text()))))


def own() -> set[str]:
    """The names that Rayloom's own metrics are made with."""
    trees = [ast.parse((PACKAGE / file).read_text()) for file in OWN_FILES]
    constants = (node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str) and re.fullmatch(r"rayloom_[a-z_]+", value)}


def sources(package: str, folder: str) -> str:
    """An engine's code, as text: importing it would take seconds."""
    found = importlib.util.find_spec(package)
    assert found is not None and found.origin is not None
    files = sorted((Path(found.origin).parent / folder).rglob("*.py"))
    return "\n".join(file.read_text() for file in files)


@pytest.fixture(scope="module")
def engines() -> dict[str, str]:
    return {"vllm": sources("vllm", "v1/metrics"), "serve": sources("ray", "serve/_private")}


def is_exported(name: str, engines: dict[str, str]) -> bool:
    bare = re.sub(r"_(bucket|sum|count)$", "", name).removeprefix("ray_")
    room, _, rest = bare.partition("_")
    if room == "rayloom":
        return bare in own()
    if room == "vllm":  # Ray's logger turns the colon into a line, and Prometheus' client names counters _total
        return any(f'"vllm:{spelled}"' in engines["vllm"] for spelled in (rest, rest.removesuffix("_total")))
    return room == "serve" and f'"{bare}"' in engines["serve"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_every_figure_of_a_dashboard_is_exported(path: Path, engines: dict[str, str]) -> None:
    names = shown(path)
    assert len(names) > 8
    assert [name for name in sorted(names) if not is_exported(name, engines)] == []
    assert not is_exported("ray_vllm_no_such_figure", engines)
    assert not is_exported("ray_rayloom_no_such_figure", engines)


def test_everything_that_is_counted_is_shown() -> None:
    on_dashboards = {re.sub(r"_(bucket|sum|count)$", "", name) for path in DASHBOARDS for name in shown(path)}
    assert {name for name in own() if f"ray_{name}" not in on_dashboards} == set()


def panels() -> Iterator[dict[str, Any]]:
    for path in DASHBOARDS:
        yield from json.loads(path.read_text())["panels"]


def test_dashboards_differ_and_each_query_names_the_source_that_was_chosen() -> None:
    uids = [json.loads(path.read_text())["uid"] for path in DASHBOARDS]
    assert len(set(uids)) == len(uids)
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}


def test_prometheus_asks_the_dashboard_with_a_token_that_stands_in_no_file() -> None:
    config = yaml.safe_load((CLUSTER / "monitoring" / "prometheus.yaml").read_text())
    (job,) = config["scrape_configs"]
    (found,) = job["http_sd_configs"]
    from ray.dashboard.modules.reporter import reporter_head

    path = found["url"].removeprefix("http://127.0.0.1:8265")
    assert f'"{path}"' in Path(reporter_head.__file__).read_text()
    assert found["authorization"] == {"type": "Bearer", "credentials_file": "token"}


def test_grafana_is_given_the_folder_of_the_dashboards() -> None:
    providers = yaml.safe_load((CLUSTER / "monitoring" / "dashboards.yaml").read_text())["providers"]
    assert {provider["folder"] for provider in providers} == {"Rayloom", "Ray"}
    (source,) = yaml.safe_load((CLUSTER / "monitoring" / "datasources.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://127.0.0.1:9090")


class Written:
    """A metric that remembers what was written."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values[tuple(tags.values())] = value

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0  # Ray refuses less
        self.values[tuple(tags.values())] = self.values.get(tuple(tags.values()), 0) + value


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, Written]:
    found: dict[str, Written] = {}
    for kind in ("Gauge", "Counter"):
        monkeypatch.setattr(f"rayloom.observe.ray_metrics.{kind}", lambda name, *_: found.setdefault(name, Written()))
    return found


def test_a_runs_events_become_figures(written: dict[str, Written]) -> None:
    step = {"event": "step", "loss": 2.5, "tokens": 512}
    heldout = {"event": "heldout", "step": 2, "name": "heldout", "loss": 2.75}
    said = {"event": "said", "text": "starting"}
    rollout = {"event": "rollout", "step": 3, "reward": 0.5, "cut_share": None, "parts": {"exact": 0.25}}
    TrainingMetrics("tuned").show(
        [said, step | {"step": 1}, {"event": "bad_step", "step": 2}, step | {"step": 3}, heldout, rollout]
    )
    values = {name: metric.values for name, metric in written.items()}
    assert values == {
        "rayloom_training_loss": {("tuned",): 2.5},
        "rayloom_training_step": {("tuned",): 3},
        "rayloom_training_tokens_total": {("tuned",): 1024},
        "rayloom_training_bad_steps_total": {("tuned",): 1},
        "rayloom_heldout_loss": {("tuned", "heldout"): 2.75},
        "rayloom_rollout": {("tuned", "reward"): 0.5, ("tuned", "exact"): 0.25},
    }


def test_scores_stand_by_model_version(written: dict[str, Written]) -> None:
    board, gate = ScoreBoard(), ("gate: task", "accuracy")
    board.put([Score("loomie@1a2b", *gate, 0.75), Score("loomie@3c4d", *gate, 0.5)])
    board.put([Score("loomie@3c4d", *gate, 0.875)])
    assert written["rayloom_evaluation_score"].values == {
        ("loomie@1a2b", "gate: task", "accuracy"): 0.75,
        ("loomie@3c4d", "gate: task", "accuracy"): 0.875,
    }


def test_chunks_add_up_by_reason(written: dict[str, Written]) -> None:
    metrics = DataMetrics("corpus")
    metrics.count(10, 1000, {"too_few_words": 2}, {})
    metrics.count(0, 500, {}, {"null_text": 1})
    values = {name: metric.values for name, metric in written.items()}
    assert values["rayloom_data_rows_total"] == {("corpus",): 10}
    assert values["rayloom_data_read_bytes_total"] == {("corpus",): 1500}
    assert values["rayloom_data_dropped_rows_total"] == {("corpus", "too_few_words"): 2}
    assert values["rayloom_data_bad_rows_total"] == {("corpus", "null_text"): 1}
