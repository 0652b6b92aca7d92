"""What people see of a search: its plan and what is wrong with it, the table while it runs, and its report."""

from __future__ import annotations

import importlib.util
import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from support.searches import Laboratory, search_in, tune_spec
from test_tune_files import files_in

from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.tune import TuneSpec
from rayloom.tune.plan import plan
from rayloom.tune.report import sections
from rayloom.tune.reporting.live import LiveTable
from rayloom.tune.results import write_trials
from rayloom.tune.strategies.ranking import best

RATES = {"learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-2}}
RATES_AND_RANKS = RATES | {"adapter.rank": {"type": "choice", "values": [4, 8, 16]}}


def planned(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> PlanSheet:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    files = files_in(folder, RATES)
    plain = files.spec.model_dump(mode="json", by_alias=True) | {"scheduler": {"type": "asha"}} | changes
    return plan(TuneSpec.model_validate(plain), files.parents, folder)


def test_a_plan_says_what_is_tried_how_many_at_once_and_for_how_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet = planned(tmp_path, monkeypatch, budget={"num_trials": 3, "cost": 2, "price_per_hour": 4})
    facts = dict(sheet.facts)
    assert facts["learning_rate"] == "1e-05 to 0.01, each power of ten alike"
    assert facts["scheduler"] == "asha: trials are compared from step 2 on, at steps 2, 6"
    assert facts["training steps, at most"] == "36"
    assert facts["ends after"] == "1,800 s"
    assert facts["costs at most"] == "2.00, and what trials take to leave"
    assert facts["trials at once"] == str(min(3, len(os.sched_getaffinity(0))))
    assert not sheet.problems


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"resources": {"gpus_per_trial": 64}}, "a worker needs 64 GPUs, and no node has more than"),
        ({"resources": {"memory_bytes_per_trial": 10**15}}, "bytes of memory, and no node has more than"),
        ({"searcher": {"type": "tpe"}}, "the searcher tpe needs Optuna: pip install 'optuna>=5'"),
        ({"mlflow": {"uri": "http://host:5000"}}, "mlflow needs MLflow: pip install mlflow-skinny"),
    ],
)
def test_a_plan_finds_what_would_stop_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], problem: str
) -> None:
    found = importlib.util.find_spec
    is_missing = ("optuna", "mlflow")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in is_missing else found(name, *a))
    assert [line for line in planned(tmp_path, monkeypatch, **changes).problems if problem in line]


@pytest.mark.parametrize(
    ("gpus", "at_once", "problem"),
    [
        (0.5, "4", ""),
        (1e-6, "4", "GB of GPU memory, and 1e-06 of a GPU has 1.6e-05 GB: raise resources.gpus_per_trial"),
        (3, "", "a worker needs 3 GPUs, and no node has more than 2"),
    ],
)
def test_a_plan_for_a_fleet_by_name_counts_its_gpus_and_their_memory(
    gpus: float, at_once: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_in(tmp_path, RATES, workers={"gpus_per_worker": 1}, hardware="2xT4-16GB", precision="fp32")
    plain = files.spec.model_dump(mode="json", by_alias=True)
    plain |= {"budget": {"num_trials": 4}, "resources": {"gpus_per_trial": gpus}}
    monkeypatch.setenv("RAY_ADDRESS", "local")
    sheet = plan(TuneSpec.model_validate(plain), files.parents, tmp_path)
    assert dict(sheet.facts).get("trials at once", "") == at_once
    assert [line for line in sheet.problems if problem in line] if problem else not sheet.problems


def test_the_table_shows_running_trials_first_and_then_the_best(tmp_path: Path) -> None:
    spec = tune_spec(space=RATES_AND_RANKS, scheduler={"type": "asha"})
    search = search_in(tmp_path, spec)
    screen = Console(file=io.StringIO(), force_terminal=True, width=120, height=50)
    with LiveTable(spec, search.history, screen) as live:
        Laboratory(search, at_most_reports=20).work()
        live.show()
    shown: Any = screen.file
    text = shown.getvalue()
    assert f"search: {len(search.history.ended)} of 16 trials ended, {len(search.history.running)} running" in text
    assert text.index("running ") < text.index("stopped")
    assert "heldout_loss" in text


def test_where_there_is_no_terminal_each_end_is_a_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    search = search_in(tmp_path, tune_spec(budget={"num_trials": 4}, scheduler={"type": "none"}))
    with LiveTable(search.spec, search.history, Console(file=io.StringIO())) as live:
        Laboratory(search).work()
        live.show()
        live.show()
    said = "".join(capfd.readouterr())
    assert [f"trial {number} of 4 finished, heldout_loss" in said for number in range(4)] == [True] * 4
    assert said.count("finished") == 4


def test_a_report_draws_curves_values_importance_and_the_front(tmp_path: Path) -> None:
    objectives = [{"metric": "heldout_loss"}, {"metric": "seconds"}]
    spec = tune_spec(space=RATES_AND_RANKS, objectives=objectives, scheduler={"type": "none"})
    search = search_in(tmp_path, spec)
    Laboratory(search).work()
    search.history.trials[3].outcome = "failed"
    search.history.trials[3].reason = "out of memory <here>"
    write_trials(tmp_path, search.history)
    (tmp_path / "best.yaml").write_text("kind: train\n")
    manifest = SimpleNamespace(spec=spec.model_dump(mode="json", by_alias=True), kind="tune")
    artifact: Any = SimpleNamespace(path=tmp_path, manifest=manifest, id="search@0")
    made = {section.title: section.body for section in sections(artifact)}
    assert list(made) == [
        "Best trial", "Learning curves", "Values and result", "What mattered: heldout_loss at step 90 of 16 trials",
        "heldout_loss against seconds", "Trials (16)", "Job to rerun",
    ]  # fmt: skip
    winner = best(spec, search.history.trials.values())
    assert winner is not None
    assert f"best: trial {winner.number}" in made["Learning curves"]
    assert all(made[title].startswith("<svg") for title in list(made)[1:5])
    assert "failed: out of memory &lt;here&gt;" in made["Trials (16)"]
