"""Searches on a real cluster with the real loop: bad trials, deaths, kills, cloned weights, the winner run again."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import processes_below
from support.searches_on_rows import (
    NUM_STEPS,
    events,
    journal_of,
    running_search,
    search_file,
    store_with_corpus,
    wait_for,
)

from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, run
from rayloom.errors import QualityError, ResourceError
from rayloom.observe.ray_session import connect, disconnect
from rayloom.train.loop.run_log import read_log
from rayloom.tune.report import sections
from rayloom.tune.results import read_trials
from rayloom.tune.run import run as run_search


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return store_with_corpus(tmp_path_factory.mktemp("tune-store"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    connect()
    yield
    disconnect()


def direct(store: Store, file: Path, work: Path) -> tuple[Outcome, Build]:
    """The stage alone, so that its work folder stays for looking into."""
    parents = {"train.data.corpus": store.open(store.resolve("made-up"))}
    place = Build(store, work / "artifact", work / "work", parents, file.parent, "0" * 12)
    place.directory.mkdir()
    place.work.mkdir(exist_ok=True)
    spec: Any = load_job(file).spec
    return run_search(spec, place), place


def test_a_bad_trial_is_recorded_and_the_winners_file_gives_its_metric_again(
    store: Store, cluster: None, tmp_path: Path
) -> None:
    """A learning rate of 1e30 has no usable loss from the second step on."""
    rates = {"learning_rate": {"type": "choice", "values": [1e-3, 1e30, 1e-2, 3e-2]}}
    file = search_file(tmp_path, space=rates, searcher={"type": "grid"}, budget={}, scheduler={"type": "asha"})
    artifact, made = run(load_job(file), store)
    trials = read_trials(artifact)
    assert made
    assert [trial.values["learning_rate"] for trial in trials] == [1e-3, 1e30, 1e-2, 3e-2]
    assert trials[1].outcome == "failed"
    assert "no usable loss or gradient" in trials[1].reason
    assert {trial.outcome for trial in trials} <= {"failed", "finished", "stopped"}
    recorded = artifact.manifest.metrics["best"]
    assert recorded["is_reproducible"]
    layer, table = 4 * 16 * 16 + 3 * 16 * 32 + 2 * 16, 67 * 16
    assert recorded["metrics"]["trainable_parameters"] == 2 * layer + table + 16
    assert artifact.manifest.content == "model"
    assert "Learning curves" in [section.title for section in sections(artifact)]
    assert_ray_kept_what_it_wrote(artifact)
    again, _ = run(load_job(artifact.path / "best.yaml"), store)
    assert measured(again)[NUM_STEPS] == recorded["metrics"]["heldout_loss"]
    assert measured(again) == measured_in(artifact.path / "trials" / f"{recorded['trial']:04d}.jsonl")
    assert (again.path / "model.safetensors").read_bytes() == (artifact.path / "model.safetensors").read_bytes()


def assert_ray_kept_what_it_wrote(artifact: Artifact) -> None:
    """Each trial's parameters and results as Ray Tune writes them, and what TensorBoard reads; no pickles."""
    of_trials = sorted((artifact.path / "ray" / "session-1").iterdir())
    assert [folder.name[:10] for folder in of_trials] == [f"trial-000{number}" for number in range(4)]
    for folder, trial in zip(of_trials, read_trials(artifact), strict=True):
        assert {file.name.partition(".tfevents")[0] for file in folder.iterdir()} == {
            "params.json", "result.json", "progress.csv", "events.out",
        }  # fmt: skip
        parameters = json.loads((folder / "params.json").read_text())
        assert parameters == {
            "trial": trial.number,
            "segment": 0,
            "values": trial.values,
            "task": f"trial {trial.number}",
        }
        told = [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]
        assert [line["step"] for line in told if line["message"] == "measured"] == [step for step, _ in trial.reports]


def measured(artifact: Artifact) -> dict[int, float]:
    return measured_in(artifact.path / "metrics.jsonl")


def measured_in(log: Path) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in read_log(log) if event["event"] == "heldout"}


def test_a_member_of_a_population_goes_on_from_its_donors_weights(store: Store, cluster: None, tmp_path: Path) -> None:
    population = {"type": "population", "num_members": 4, "interval_steps": 4}
    outcome, place = direct(store, search_file(tmp_path, budget={}, scheduler=population), tmp_path)
    journal = [json.loads(line) for line in (place.work / "journal.jsonl").read_text().splitlines()]
    copies = [event for event in journal if event["type"] == "copied"]
    assert sorted(copy["step"] for copy in copies) == [4, 8]
    assert outcome.metrics["outcomes"] == {"finished": 4}
    copy = copies[0]
    own, donor = place.work / "trials" / f"{copy['trial']:04d}", place.work / "trials" / f"{copy['donor']:04d}"
    assert losses(own / "0")[4] != losses(donor / "0")[4]
    # Only the weights decide on the loss of step 5: the rows are the same, and it is computed before the update.
    assert losses(own / "1")[5] == losses(donor / "0")[5]
    resumed = [event["step"] for event in read_log(own / "1" / "metrics.jsonl") if event["event"] == "resumed"]
    assert resumed[0] == 4
    assert losses(own / "1")[6] != losses(donor / "0")[6]


def losses(segment: Path) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in read_log(segment / "metrics.jsonl") if event["event"] == "step"}


@pytest.mark.full
def test_the_budget_ends_a_search_cleanly_with_the_best_so_far(store: Store, cluster: None, tmp_path: Path) -> None:
    budget = {"num_trials": 4, "num_steps": 8}
    outcome, place = direct(store, search_file(tmp_path, budget=budget, train={"num_steps": 400}), tmp_path)
    best = outcome.metrics["best"]
    assert best["outcome"] == "cut_off"
    assert not best["is_reproducible"]
    assert 0 < best["step"] < 400
    assert outcome.metrics["num_trials"] == 2
    assert (place.directory / "model.safetensors").stat().st_size > 0
    assert measured_in(place.directory / "metrics.jsonl")[best["step"]] == best["metrics"]["heldout_loss"]


@pytest.mark.full
def test_a_search_without_a_usable_trial_says_why(store: Store, cluster: None, tmp_path: Path) -> None:
    rates = {"learning_rate": {"type": "choice", "values": [1e30]}}
    with pytest.raises(QualityError, match=r"No trial came to an end.*trial 0: .*no usable loss or gradient"):
        direct(store, search_file(tmp_path, space=rates, budget={"num_trials": 1}), tmp_path)


def test_a_failure_outside_the_values_ends_the_search_and_mended_it_goes_on(
    store: Store, cluster: None, tmp_path: Path
) -> None:
    file = search_file(
        tmp_path, budget={"num_trials": 2}, resources={"max_concurrent_trials": 1}, max_crashes_per_trial=1
    )
    blocked = tmp_path / "work" / "trials" / "0001" / "0" / "metrics.jsonl"
    blocked.mkdir(parents=True)
    with pytest.raises(ResourceError, match=r"trial 1: IsADirectoryError.*run the same command again: the 1 trials"):
        direct(store, file, tmp_path)
    blocked.rmdir()
    shutil.rmtree(tmp_path / "artifact")
    outcome, _ = direct(store, file, tmp_path)
    assert outcome.metrics["outcomes"] == {"finished": 2}
    assert outcome.metrics["sessions"] == 2


# -- several workers ---------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_trials_of_two_workers_stop_and_fail_together_and_the_winner_can_be_run_again(
    store: Store, cluster: None, tmp_path: Path
) -> None:
    rates = {"learning_rate": {"type": "choice", "values": [1e-2, 1e-7, 1e30]}}
    train = {"workers": {"num_workers": 2}, "sharding": {"zero_stage": 2}, "precision": "bf16"}
    asha = {"type": "asha", "grace_steps": 4, "reduction_factor": 4}
    file = search_file(
        tmp_path, name="pairs", train=train, space=rates, searcher={"type": "grid"}, budget={}, scheduler=asha
    )
    artifact, _ = run(load_job(file), store)
    trials = read_trials(artifact)
    assert [trial.outcome for trial in trials] == ["finished", "stopped", "failed"]
    assert "no usable loss or gradient" in trials[2].reason
    again, _ = run(load_job(artifact.path / "best.yaml"), store)
    assert measured(again)[NUM_STEPS] == artifact.manifest.metrics["best"]["metrics"]["heldout_loss"]


# -- kills -------------------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_a_killed_search_repeats_no_finished_trial_and_a_killed_trial_goes_on(store: Store, tmp_path: Path) -> None:
    train = {"num_steps": 60, "evaluate_every_steps": 2, "checkpoints": {"every_steps": 2}}
    file = search_file(tmp_path, name="killed", train=train, budget={"num_trials": 4})
    first = running_search(store, file)
    journal = journal_of(store, "killed")
    wait_for(lambda: events(journal, "ended"))
    with first:  # closes its output
        os.kill(first.pid, signal.SIGKILL)
    before = {event["trial"] for event in events(journal, "ended")}
    known = len(events(journal))

    second = running_search(store, file)
    started = wait_for(lambda: [e for e in events(journal)[known:] if e["type"] == "report" and e.get("step", 0) > 2])
    victim = trial_process(second.pid)
    os.kill(victim, signal.SIGKILL)
    said, _ = second.communicate(timeout=240)
    assert second.returncode == 0, said
    trials = {trial.number: trial for trial in read_trials(store.open(store.resolve("killed")))}
    assert len(trials) == 4
    assert {trial.outcome for trial in trials.values()} == {"finished"}
    assert sum(trial.crashes for trial in trials.values()) == 1
    assert not before & {event["trial"] for event in started}
    # Every trial was measured at every second step, whatever died.
    for trial in trials.values():
        assert [step for step, _ in trial.reports] == list(range(0, 61, 2))


def trial_process(driver: int) -> int:
    """A process that trains, below the driver's embedded cluster."""
    return processes_below("ImplicitFunc", driver)[0].pid
