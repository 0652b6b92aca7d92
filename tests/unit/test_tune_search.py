"""The search without Ray: what is tried, what is stopped, and what a killed search does when it is run again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.searches import EVERY, NUM_STEPS, Laboratory, loss, search_in, tune_spec

from rayloom.errors import InputError
from rayloom.tune.strategies.history import History, Journal

ASHA = {"type": "asha", "grace_steps": 10, "reduction_factor": 3}
POPULATION = {
    "space": {"learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-2}},
    "budget": {},
    "scheduler": {"type": "population", "num_members": 4, "interval_steps": 30, "exchanged_share": 0.25},
}


def outcomes(history: History) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for trial in history.trials.values():
        found.setdefault(str(trial.outcome), []).append(trial.number)
    return found


def test_without_a_scheduler_every_trial_runs_to_its_end(tmp_path: Path) -> None:
    laboratory = Laboratory(search_in(tmp_path, tune_spec(scheduler={"type": "none"}))).work()
    assert outcomes(laboratory.search.history) == {"finished": list(range(16))}
    assert len(laboratory.log) == 16 * NUM_STEPS // EVERY
    assert laboratory.search.history.num_steps == 16 * NUM_STEPS


def test_halving_finds_the_best_in_a_fraction_of_the_steps(tmp_path: Path) -> None:
    search = Laboratory(search_in(tmp_path, tune_spec(scheduler=ASHA))).work().search
    ranked = sorted(search.history.trials.values(), key=lambda trial: loss(trial.values, NUM_STEPS))
    assert "finished" in {trial.outcome for trial in ranked[:2]}
    assert search.history.num_steps <= 0.45 * 16 * NUM_STEPS
    stopped = [trial for trial in ranked if trial.outcome == "stopped"]
    assert all("kept" in trial.reason and f"at step {trial.step}" in trial.reason for trial in stopped)


def test_no_more_run_at_once_than_there_is_room_for(tmp_path: Path) -> None:
    search = search_in(tmp_path, tune_spec(), num_concurrent=3)
    assert [search.next_run() is not None for _ in range(4)] == [True, True, True, False]
    search.failed(1, "diverged")
    run = search.next_run()
    assert run is not None
    assert run.trial == 3


@pytest.mark.parametrize("killed_after", [1, 7, 20, 33])
@pytest.mark.parametrize("scheduler", [{"type": "none"}, ASHA, {"type": "median", "grace_steps": 20}])
def test_a_killed_search_repeats_no_finished_trial(
    tmp_path: Path, killed_after: int, scheduler: dict[str, object]
) -> None:
    spec = tune_spec(scheduler=scheduler)
    first = Laboratory(search_in(tmp_path, spec), at_most_reports=killed_after).work()
    ended = {trial.number: (trial.outcome, trial.reports) for trial in first.search.history.ended}
    points = {trial.number: trial.point for trial in first.search.history.trials.values()}
    second = Laboratory(search_in(tmp_path, spec), seed=1).work()
    history = second.search.history
    assert {number: (t.outcome, t.reports) for number, t in history.trials.items() if number in ended} == ended
    assert not set(ended) & {number for number, _ in second.starts}
    assert {number: history.trials[number].point for number in points} == points
    assert len(history.trials) == 16
    assert all(trial.outcome is not None for trial in history.trials.values())
    assert history.sessions == 2


def test_a_restored_search_tries_the_points_that_it_would_have_tried(tmp_path: Path) -> None:
    spec = tune_spec(scheduler={"type": "none"})
    whole = Laboratory(search_in(tmp_path / "a", spec, num_concurrent=1)).work().search.history
    Laboratory(search_in(tmp_path / "b", spec, num_concurrent=1), at_most_reports=40).work()
    parted = Laboratory(search_in(tmp_path / "b", spec, num_concurrent=1)).work().search.history
    assert [trial.point for trial in parted.trials.values()] == [trial.point for trial in whole.trials.values()]


def test_the_rungs_of_a_killed_search_are_not_forgotten(tmp_path: Path) -> None:
    """Of 16 trials one after the other, each worse than all before, halving keeps only the first to the end."""
    spec = tune_spec(scheduler=ASHA)
    worse = iter(range(1000))
    rank = {number: next(worse) for number in range(16)}
    measured: dict[float, int] = {}

    def measure(values: dict[str, float], step: int) -> float:
        number = measured.setdefault(values["learning_rate"], len(measured))
        return rank[number] + 1 / step

    first = Laboratory(search_in(tmp_path, spec, num_concurrent=1), measure, at_most_reports=NUM_STEPS // EVERY).work()
    assert outcomes(first.search.history)["finished"] == [0]
    second = Laboratory(search_in(tmp_path, spec, num_concurrent=1), measure).work()
    # A scheduler that had forgotten trial 0 would let trial 1 run to its end as well.
    assert outcomes(second.search.history) == {"finished": [0], "stopped": list(range(1, 16))}


def test_a_trial_that_resumes_is_not_judged_twice_at_the_same_step(tmp_path: Path) -> None:
    spec = tune_spec(scheduler=ASHA, budget={"num_trials": 3})
    search = search_in(tmp_path, spec)
    for _ in range(2):
        search.next_run()
    assert search.measured(0, 10, {"heldout_loss": 3.0})
    search.crashed(0, "its process died")
    assert not search.measured(1, 10, {"heldout_loss": 3.5})
    search.next_run()
    search.next_run()
    assert search.measured(2, 10, {"heldout_loss": 1.0})
    assert search.measured(0, 10, {"heldout_loss": 3.0})


def test_a_trial_that_dies_goes_on_and_one_that_dies_too_often_is_recorded(tmp_path: Path) -> None:
    search = search_in(tmp_path, tune_spec(scheduler={"type": "none"}, max_crashes_per_trial=1), num_concurrent=1)
    for expected in (0, 0, 1):
        run = search.next_run()
        assert run is not None
        assert run.trial == expected
        search.crashed(run.trial, "the node is gone")
    assert search.history.trials[0].outcome == "failed"
    assert search.history.trials[0].reason == "died 2 times: the node is gone"


def test_a_failure_from_outside_is_tried_again_and_then_ends_the_search_until_it_is_mended(tmp_path: Path) -> None:
    spec = tune_spec(scheduler={"type": "none"}, max_crashes_per_trial=1, budget={"num_trials": 3})
    search = search_in(tmp_path, spec)
    assert search.next_run() is not None
    for _ in range(2):
        run = search.next_run()
        assert run is not None and run.trial == 1
        search.hindered(1, "No such file or directory")
    assert search.hindrance == "trial 1: No such file or directory"
    assert search.next_run() is None
    assert not search.is_over  # trial 0 still runs, and pauses
    search.paused(0)
    assert search.is_over
    assert search.history.trials[1].outcome is None
    again = Laboratory(search_in(tmp_path, spec)).work().search
    assert again.hindrance is None
    assert {trial.outcome for trial in again.history.trials.values()} == {"finished"}


def test_the_budget_of_steps_ends_the_search_with_what_there_is(tmp_path: Path) -> None:
    spec = tune_spec(scheduler={"type": "none"}, budget={"num_trials": 16, "num_steps": 200})
    search = Laboratory(search_in(tmp_path, spec)).work().search
    search.cut_off()
    assert 200 <= search.history.num_steps <= 220
    assert {trial.outcome for trial in search.history.trials.values()} == {"finished", "cut_off"}
    cut = [trial for trial in search.history.trials.values() if trial.outcome == "cut_off"]
    assert all("budget of 200 steps" in trial.reason for trial in cut)
    assert search_in(tmp_path, spec).is_over


def test_wall_time_counts_over_all_sessions(tmp_path: Path) -> None:
    spec = tune_spec(budget={"num_trials": 16, "wall_seconds": 100})
    now = 5000.0
    search = search_in(tmp_path, spec, clock=lambda: now)
    run = search.next_run()
    assert run is not None
    now += 60
    search.measured(run.trial, 10, {"heldout_loss": 1.0})
    other = 7.0
    again = search_in(tmp_path, spec, clock=lambda: other)
    assert again.seconds == 60
    assert again.exhausted_budget() is None
    other += 41
    assert again.exhausted_budget() == "the budget of 100 s is used up"
    assert again.next_run() is None
    assert again.history.trials[0].busy_seconds == 60


def test_values_that_are_refused_only_together_cost_no_training(tmp_path: Path) -> None:
    """Rules between fields can refuse what no end of a range shows: here, only the middle of it divides."""
    space = {"micro_batch_sequences": {"type": "integer", "low": 1, "high": 4}}
    spec = tune_spec(space=space, searcher={"type": "grid"}, budget={}, scheduler={"type": "none"})
    history = Laboratory(search_in(tmp_path, spec), lambda values, step: 1.0).work().search.history
    assert outcomes(history) == {"finished": [0, 1, 3], "failed": [2]}
    assert history.trials[2].reason.startswith("refused: the job: global_batch_tokens must be a multiple of 384")


def test_members_of_a_population_wait_for_each_other_and_the_worst_copies_the_best(tmp_path: Path) -> None:
    laboratory = Laboratory(search_in(tmp_path, tune_spec(**POPULATION))).work()
    history = laboratory.search.history
    assert outcomes(history) == {"finished": [0, 1, 2, 3]}
    assert history.exchanged_step == 60
    copies = [copy for trial in history.trials.values() for copy in trial.copies]
    assert sorted(copy.step for copy in copies) == [30, 60]
    for copy in copies:
        at = {number: trial.value_at(copy.step, "heldout_loss") for number, trial in history.trials.items()}
        assert copy.donor == min(at, key=lambda number: at[number] or 0)
        assert copy.trial == max(at, key=lambda number: at[number] or 0)
    for number, step in laboratory.starts:
        before = laboratory.log[: laboratory.log.index((number, step + EVERY))]
        assert all(max((s for n, s in before if n == member), default=0) >= step for member in range(4))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("share", "concurrent"), [(0.25, 1), (0.25, 2), (0.5, 2), (0.5, 3)])
def test_a_donor_waits_until_its_checkpoint_is_copied(tmp_path: Path, seed: int, share: float, concurrent: int) -> None:
    """Training on, it would replace the checkpoint; a donor that copies itself has two folders."""
    scheduler = POPULATION["scheduler"] | {"exchanged_share": share}
    search = search_in(tmp_path, tune_spec(**POPULATION | {"scheduler": scheduler}), num_concurrent=concurrent)
    laboratory = Laboratory(search, seed=seed).work()
    trials = laboratory.search.history.trials
    assert outcomes(laboratory.search.history) == {"finished": [0, 1, 2, 3]}
    copies = [(copy, n) for trial in trials.values() for n, copy in enumerate(trial.copies, 1)]
    assert len(copies) == len(laboratory.copied) == 2 * max(1, int(4 * share))
    for copy, segment in copies:
        assert laboratory.copied[copy.trial, segment] == copy.step


def test_the_same_population_comes_out_of_another_order_and_of_a_killed_search(tmp_path: Path) -> None:
    spec = tune_spec(**POPULATION)
    whole = Laboratory(search_in(tmp_path / "a", spec)).work().search.history
    other = Laboratory(search_in(tmp_path / "b", spec), seed=9).work().search.history
    Laboratory(search_in(tmp_path / "c", spec), at_most_reports=17).work()
    parted = Laboratory(search_in(tmp_path / "c", spec)).work().search.history
    for history in (other, parted):
        assert [t.reports for t in history.trials.values()] == [t.reports for t in whole.trials.values()]
        assert [t.values for t in history.trials.values()] == [t.values for t in whole.trials.values()]


def test_a_line_that_was_cut_short_is_dropped_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    search = search_in(tmp_path, tune_spec())
    search.next_run()
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"type": "report", "at_sec')
    assert len(Journal(path).read()) == len(whole.splitlines())
    assert path.read_bytes() == whole
    path.write_bytes(b"{]\n" + whole)
    with pytest.raises(InputError, match=r"journal of the search is damaged.*journal\.jsonl"):
        Journal(path).read()


def test_the_journal_holds_no_more_than_what_is_said(tmp_path: Path) -> None:
    search = search_in(tmp_path, tune_spec(), clock=lambda: 0.0)
    search.next_run()
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [line["type"] for line in lines] == ["session", "created", "started"]
    assert "metrics" not in lines[1]
