"""Points, rungs, medians, fronts, capacity and result files of a search, each against cases worked by hand."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from support.searches import Laboratory, search_in, tune_spec

from rayloom.errors import InputError, QualityError, ResourceError
from rayloom.specs.search.space import substituted, value_at, values_of
from rayloom.specs.search.strategies import HyperbandScheduler
from rayloom.specs.train import TrainSpec
from rayloom.tune.results import earlier_trials, read_trials, summary, trial_of, trial_record, write_best, write_trials
from rayloom.tune.strategies.history import History, Trial
from rayloom.tune.strategies.optuna_study import importances
from rayloom.tune.strategies.points import drawn, generator, grid_point, grid_size, perturbed, point_of
from rayloom.tune.strategies.ranking import best, front, pareto_indices, ranked
from rayloom.tune.strategies.schedulers import bracket_order, reason_to_stop, rung_of
from rayloom.tune.strategies.searchers import suggested_point
from rayloom.tune.trials.capacity import bundles_of, num_concurrent, num_that_fit
from rayloom.tune.trials.trial import end_of, num_parameters, reason_of

SPACE = {
    "learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-2},
    "adapter.rank": {"type": "choice", "values": [4, 8, 16]},
    "adapter.alpha": {"type": "multiple", "of": "adapter.rank", "times": [1, 2]},
    "schedule.warmup_steps": {"type": "integer", "low": 0, "high": 20, "step": 5},
    "schedule.type": {"type": "choice", "values": ["linear", "cosine"]},
    "adapter.target_modules": {"type": "choice", "values": ["all-linear", ["q_proj", "v_proj"]]},
}


def trial(number: int, losses: list[float], outcome: str | None = "finished", **values: Any) -> Trial:
    reports = [(10 * (place + 1), {"heldout_loss": loss}) for place, loss in enumerate(losses)]
    return Trial(number, {}, values, 0.0, reports, outcome=outcome)  # type: ignore[arg-type]


# -- points ------------------------------------------------------------------------------------------------------------


def test_a_multiple_follows_what_it_is_a_multiple_of() -> None:
    spec = tune_spec(space=SPACE)
    point = {
        "learning_rate": 1e-3, "adapter.rank": 2, "adapter.alpha": 1, "schedule.warmup_steps": 5,
        "schedule.type": 0, "adapter.target_modules": 1,
    }  # fmt: skip
    values = values_of(spec.space, point, spec.plain_job)
    assert values["adapter.alpha"] == 32
    assert values["adapter.target_modules"] == ["q_proj", "v_proj"]
    changed = TrainSpec.model_validate(substituted(spec.plain_job, values))
    assert (changed.adapter.type, changed.schedule.warmup_steps, changed.learning_rate) == ("lora", 5, 1e-3)
    assert value_at(substituted(spec.plain_job, values), "adapter.alpha") == 32


def test_a_multiple_of_the_field_itself_is_of_what_the_file_says() -> None:
    space = {"learning_rate": {"type": "multiple", "of": "learning_rate", "times": [0.5, 2]}}
    spec = tune_spec(space=space)
    assert values_of(spec.space, {"learning_rate": 1}, spec.plain_job) == {"learning_rate": 4e-4}
    steps = {"schedule.warmup_steps": {"type": "multiple", "of": "num_steps", "times": [0.125], "to_whole": True}}
    assert values_of(tune_spec(space=steps).space, {}, {"num_steps": 90}) == {"schedule.warmup_steps": 11}


@given(st.integers(0, 10**6))
def test_points_drawn_lie_in_the_space_and_come_back_from_their_values(seed: int) -> None:
    spec = tune_spec(space=SPACE)
    point = drawn(spec.space, generator(seed, "x"))
    assert point == drawn(spec.space, generator(seed, "x"))
    assert 1e-5 <= point["learning_rate"] <= 1e-2
    assert point["schedule.warmup_steps"] in (0, 5, 10, 15, 20)
    values = values_of(spec.space, point, spec.plain_job)
    assert point_of(spec.space, values, spec.plain_job) == point
    near = {path: perturbed(d, point[path], (0.8, 1.25), generator(seed, path)) for path, d in spec.space.items()}
    assert values_of(spec.space, near, spec.plain_job).keys() == values.keys()
    assert abs(near["adapter.rank"] - point["adapter.rank"]) <= 1


def test_powers_of_ten_are_alike_in_a_log_range() -> None:
    spec = tune_spec()
    rates = [drawn(spec.space, generator(0, n))["learning_rate"] for n in range(3000)]
    counts = Counter(math.floor(math.log10(rate) + 1e-9) for rate in rates)
    assert all(900 < counts[power] < 1100 for power in (-5, -4, -3))


def test_a_grid_counts_through_every_combination_once() -> None:
    space = {key: SPACE[key] for key in ("adapter.rank", "adapter.alpha", "schedule.warmup_steps")}
    spec = tune_spec(space=space, searcher={"type": "grid"}, budget={})
    assert grid_size(spec.space) == spec.num_trials == 30
    points = [grid_point(spec.space, number) for number in range(30)]
    assert len({tuple(point.items()) for point in points}) == 30
    assert list(points[0].values()) == [0, 0, 0]
    assert list(points[1].values()) == [0, 0, 5]
    assert grid_size(tune_spec().space) == 0


def test_values_outside_the_space_have_no_point() -> None:
    spec = tune_spec()
    for values in ({"learning_rate": 1.0, "adapter.rank": 4}, {"learning_rate": 1e-3, "adapter.rank": 5}, {}):
        assert point_of(spec.space, values, spec.plain_job) is None


# -- searchers ---------------------------------------------------------------------------------------------------------


def test_a_finite_space_is_not_tried_twice_until_all_of_it_was_tried(tmp_path: Path) -> None:
    space = {"adapter.rank": SPACE["adapter.rank"], "schedule.type": SPACE["schedule.type"]}
    spec = tune_spec(space=space, budget={"num_trials": 6}, scheduler={"type": "none"})
    history = Laboratory(search_in(tmp_path, spec), lambda values, step: 1.0).work().search.history
    assert len({tuple(t.point.items()) for t in history.trials.values()}) == 6


@pytest.mark.parametrize("searcher", ["tpe", "bohb", pytest.param("gaussian_process", marks=pytest.mark.full)])
def test_searchers_that_learn_come_near_the_best_and_ask_alike_twice(tmp_path: Path, searcher: str) -> None:
    num_trials = 14 if searcher == "gaussian_process" else 24
    spec = tune_spec(searcher={"type": searcher}, budget={"num_trials": num_trials}, scheduler={"type": "none"})
    history = Laboratory(search_in(tmp_path, spec)).work().search.history
    last = num_trials - 1
    before = History({number: t for number, t in history.trials.items() if number < last})
    assert suggested_point(spec, before, last) == suggested_point(spec, before, last)
    rates = [t.values["learning_rate"] for t in history.trials.values()][10:]
    assert np.median(np.abs(np.log10(rates) + 3)) < 0.75  # drawn at random it would be about 1
    found = best(spec, history.trials.values())
    assert found is not None
    assert abs(math.log10(found.values["learning_rate"]) + 3) < 0.3


def test_a_warm_start_learns_from_the_trials_that_lie_in_the_space(tmp_path: Path) -> None:
    first = tune_spec(scheduler={"type": "none"})
    history = Laboratory(search_in(tmp_path / "a", first)).work().search.history
    write_trials(tmp_path, history)
    artifact: Any = SimpleNamespace(path=tmp_path, id="first@0", manifest=SimpleNamespace(kind="tune"))
    narrower = {
        "learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2},
        "adapter.rank": SPACE["adapter.rank"],
    }
    spec = tune_spec(space=narrower, searcher={"type": "tpe"})
    earlier = earlier_trials(spec, [artifact])
    assert 0 < len(earlier) < 16
    assert all(1e-4 <= t.point["learning_rate"] <= 1e-2 for t in earlier)
    assert suggested_point(spec, History(), 0, earlier) != suggested_point(spec, History(), 0)
    with pytest.raises(InputError, match="first@0 is a train, not a search"):
        (tmp_path / "trials.jsonl").unlink()
        artifact.manifest.kind = "train"
        earlier_trials(spec, [artifact])


# -- schedulers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("previous", "step", "rung"), [(0, 5, None), (0, 10, 10), (10, 20, None), (20, 30, 30), (0, 30, 30), (30, 100, 90)]
)
def test_a_rung_is_passed_once(previous: int, step: int, rung: int | None) -> None:
    assert rung_of(previous, step, grace=10, factor=3) == rung


@pytest.mark.parametrize(
    ("losses", "loss", "is_stopped"),
    [([], 9.0, False), ([1.0], 2.0, True), ([2.0], 1.0, False), ([1.0, 2.0], 1.5, True), ([1.0, 2.0, 3.0], 1.5, False),
     ([1.0], math.nan, True), ([], math.nan, True)],
)  # fmt: skip
def test_halving_keeps_the_best_third_rounded_up(losses: list[float], loss: float, is_stopped: bool) -> None:
    spec = tune_spec(scheduler={"type": "asha", "grace_steps": 10, "reduction_factor": 3})
    trials = [trial(number, [value]) for number, value in enumerate([*losses, loss])]
    history = History({t.number: t for t in trials})
    assert (reason_to_stop(spec, history, trials[-1], 10) is not None) == is_stopped


def test_larger_is_better_where_the_goal_says_so() -> None:
    objectives = [{"metric": "heldout_loss", "goal": "maximise"}]
    spec = tune_spec(scheduler={"type": "asha", "grace_steps": 10}, objectives=objectives)
    trials = {number: trial(number, [value]) for number, value in enumerate((1.0, 2.0))}
    assert reason_to_stop(spec, History(trials), trials[1], 10) is None


def test_the_median_rule_compares_a_best_value_with_others_means() -> None:
    """Means of the others up to step 20: 2, 3, 4; their median is 3 (Golovin et al. 2017, section 3.2.2)."""
    spec = tune_spec(scheduler={"type": "median", "grace_steps": 20, "min_trials": 3})
    others = {n: trial(n, [mean + 0.5, mean - 0.5, 0.0]) for n, mean in enumerate((2.0, 3.0, 4.0))}
    for losses, is_stopped in (([9.0, 3.1], True), ([2.9, 9.0], False), ([9.0, 3.0], False)):
        own = trial(9, losses, None)
        assert (reason_to_stop(spec, History({**others, 9: own}), own, 20) is not None) == is_stopped
    own = trial(9, [9.0, 9.0], None)
    del others[0]
    assert reason_to_stop(spec, History({**others, 9: own}), own, 20) is None


def test_hyperbands_brackets_have_its_sizes_and_start_later_each() -> None:
    """With three brackets and factor 3 a round has ceil(3/3 × 9), ceil(3/2 × 3) and 3 trials."""
    order = bracket_order(HyperbandScheduler(type="hyperband", num_brackets=3))
    assert Counter(order) == {0: 9, 1: 5, 2: 3}
    spec = tune_spec(scheduler={"type": "hyperband", "grace_steps": 10, "num_brackets": 2})
    assert bracket_order(spec.scheduler) == [0, 1, 0, 1, 0]  # type: ignore[arg-type]
    trials = {n: trial(n, [float(n), float(n), float(n)]) for n in range(4)}
    assert reason_to_stop(spec, History({n: trial(n, [float(n)]) for n in range(4)}), trials[2], 10) is None
    early = {n: trial(n, [float(n)]) for n in range(4)}
    assert reason_to_stop(spec, History(early), early[2], 10) is not None
    assert reason_to_stop(spec, History(early), early[3], 10) is None
    assert reason_to_stop(spec, History(trials), trials[3], 30) is not None


# -- ranking -----------------------------------------------------------------------------------------------------------


def test_what_ran_to_its_end_comes_before_what_looked_good_earlier() -> None:
    spec = tune_spec()
    trials = [trial(0, [3.0, 2.0]), trial(1, [1.0], "stopped"), trial(2, [3.0, 1.5]), trial(3, [], "failed")]
    trials.append(trial(4, [1.2], "cut_off"))
    assert [t.number for t in ranked(spec, trials)] == [2, 0, 4, 1, 3]
    assert best(spec, trials) is trials[2]
    assert best(spec, trials[1:2] + trials[3:4]) is None
    assert best(spec, [trials[4], trial(5, [9.0, 9.0], "cut_off")]).number == 5  # type: ignore[union-attr]


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    assert pareto_indices([(1, 9), (2, 2), (3, 1), (3, 3), (2, 2), (1, 10)]) == [0, 1, 2, 4]
    assert pareto_indices([]) == []
    spec = tune_spec(objectives=[{"metric": "heldout_loss"}, {"metric": "trainable_parameters"}])
    trials = [trial(n, [loss]) for n, loss in enumerate((3.0, 2.0, 1.0, 2.5))]
    for t, size in zip(trials, (100, 200, 400, 200), strict=True):
        t.reports[-1][1]["trainable_parameters"] = float(size)
    assert [t.number for t in front(spec, trials)] == [2, 1, 0]


def test_importance_finds_the_dimension_that_matters() -> None:
    spec = tune_spec()
    trials = []
    for number in range(24):
        point = drawn(spec.space, generator(1, number))
        trials.append(trial(number, [abs(math.log10(point["learning_rate"]) + 3)]))
        trials[-1].point = point
    shares = importances(spec, trials, 10)
    assert list(shares) == ["learning_rate", "adapter.rank"]
    assert shares["learning_rate"] > 0.8
    assert math.isclose(sum(shares.values()), 1)
    assert importances(spec, trials[:3], 10) == {}
    assert importances(spec, trials, 20) == {}


# -- capacity ----------------------------------------------------------------------------------------------------------

NODE = {"CPU": 8.0, "GPU": 2.0, "memory": 64e9}


def workers(**changes: Any) -> dict[str, Any]:
    return {"train": {"workers": {"num_workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0} | changes}}


@pytest.mark.parametrize(
    ("spec", "nodes", "expected"),
    [
        (workers(), [NODE], 8),
        (workers(cpus_per_worker=3), [NODE, NODE], 4),
        (workers(gpus_per_worker=1), [NODE], 2),
        (workers(gpus_per_worker=1) | {"resources": {"gpus_per_trial": 0.25}}, [NODE], 8),
        (workers(gpus_per_worker=1) | {"resources": {"gpus_per_trial": 0.5}}, [NODE], 4),
        # 0.6 of one GPU leaves 0.4 of it, of which no trial is made with 0.4 of the other.
        (workers(gpus_per_worker=1) | {"resources": {"gpus_per_trial": 0.6}}, [NODE], 2),
        (workers(gpus_per_worker=1) | {"resources": {"gpus_per_trial": 0.1}}, [NODE | {"CPU": 64.0}], 16),
        (workers() | {"resources": {"memory_bytes_per_trial": 20_000_000_000}}, [NODE], 3),
        (workers() | {"resources": {"max_concurrent_trials": 3}}, [NODE], 3),
        (workers() | {"budget": {"num_trials": 2}}, [NODE], 2),
    ],
)
def test_as_many_trials_run_as_there_is_room_for(
    spec: dict[str, Any], nodes: list[dict[str, float]], expected: int
) -> None:
    assert num_concurrent(tune_spec(**spec), nodes) == expected


def test_workers_of_one_trial_may_lie_on_several_nodes_but_only_whole_trials_count() -> None:
    bundles = [{"CPU": 3.0}, {"CPU": 3.0}]
    assert num_that_fit([{"CPU": 4.0}, {"CPU": 4.0}, {"CPU": 4.0}], bundles) == 1
    assert num_that_fit([{"CPU": 6.0}], bundles) == 1
    assert num_that_fit([{"CPU": 5.0}], bundles) == 0
    assert num_that_fit([{"CPU": 12.0}, {"CPU": 3.0}, {"CPU": 3.0}], bundles) == 3


FOUR_GPUS = workers(gpus_per_worker=1) | {"resources": {"gpus_per_trial": 4}}
TWENTY_CPUS = {"train": {"workers": {"num_workers": 4, "cpus_per_worker": 5}, "global_batch_tokens": 1024}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (FOUR_GPUS, "a worker needs 4 GPUs, and no node has more than 2"),
        (workers(cpus_per_worker=9), "a worker needs 9 CPUs, and no node has more than 8"),
        ({"resources": {"memory_bytes_per_trial": 10**12}}, "needs 1,000,000,000,000 bytes of memory, and no node"),
        (TWENTY_CPUS, "4 workers of 5 CPUs, and the cluster has no room"),
    ],
)
def test_a_trial_that_cannot_fit_is_refused_before_the_start(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ResourceError, match=said):
        num_concurrent(tune_spec(**changes), [NODE])


def test_a_trial_holds_a_bundle_for_each_worker() -> None:
    spec = tune_spec(train={"workers": {"num_workers": 2, "gpus_per_worker": 1}})
    assert bundles_of(spec, memory_bytes_per_worker=5) == [{"CPU": 1.0, "GPU": 1.0, "memory": 5.0}] * 2


# -- result files ------------------------------------------------------------------------------------------------------


def test_trials_come_back_from_their_file(tmp_path: Path) -> None:
    history = Laboratory(search_in(tmp_path / "w", tune_spec())).work().search.history
    history.trials[3].reports.append((100, {"heldout_loss": math.nan}))
    write_trials(tmp_path, history)
    found = read_trials(SimpleNamespace(path=tmp_path))  # type: ignore[arg-type]
    assert [trial_record(t) for t in found] == [trial_record(t) for t in history.trials.values()]
    assert math.isnan(found[3].metrics["heldout_loss"])
    json.loads((tmp_path / "trials.jsonl").read_text().splitlines()[3], parse_constant=lambda name: pytest.fail(name))
    assert trial_of(trial_record(found[0])).reports == history.trials[0].reports


def test_the_best_job_names_what_it_was_made_from_and_leaves_nothing_to_defaults(tmp_path: Path) -> None:
    spec = tune_spec(train={"gradient_clip_norm": None, "description": "for people"})
    history = Laboratory(search_in(tmp_path / "w", spec)).work().search.history
    winner = best(spec, history.trials.values())
    assert winner is not None
    parents: Any = {
        "base": SimpleNamespace(id="small@0123456789ab"),
        "data.corpus": SimpleNamespace(id="words@ba9876543210"),
    }
    write_best(tmp_path, spec, winner, parents)
    text = (tmp_path / "best.yaml").read_text()
    job = yaml.safe_load(text)
    assert (job["base"], job["data"]["corpus"]) == ("artifact:small@0123456789ab", "artifact:words@ba9876543210")
    assert job["learning_rate"] == winner.values["learning_rate"]
    assert job["gradient_clip_norm"] is None
    assert {"seed", "workers", "precision"} <= job.keys()
    assert not {"description", "architecture", "early_stopping"} & job.keys()
    read = TrainSpec.model_validate_json(json.dumps(job), strict=True)
    assert read.model_dump(exclude={"name", "base", "data", "description"}) == TrainSpec.model_validate(
        substituted(spec.plain_job, winner.values)
    ).model_dump(exclude={"name", "base", "data", "description"})
    assert text.startswith(f"# Trial {winner.number} of the search search: heldout_loss ")
    made = summary(spec, history, winner)
    assert made["best"]["is_reproducible"]
    assert made["num_steps"] == history.num_steps


def test_parameters_are_counted_from_the_headers_of_weight_files(tmp_path: Path) -> None:
    save_file({"a": np.zeros((3, 5)), "b": np.zeros(7)}, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    assert num_parameters(tmp_path) == 22


NO_MEMORY = RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried\nmore")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (QualityError("No usable loss", where="loss nan", fix="Lower it."), "No usable loss (loss nan). Lower it."),
        (NO_MEMORY, "out of memory: [enforce"),
        (MemoryError(), "out of memory"),
        (ValueError("first line\nsecond"), "ValueError: first line"),
    ],
)
def test_what_a_trial_died_of_is_one_line(error: Exception, said: str) -> None:
    assert reason_of(error).startswith(said)
    assert "\n" not in reason_of(error)


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (QualityError("No usable loss", where="loss nan"), "failed"),
        (NO_MEMORY, "failed"),
        (InputError("Nothing would be trained"), "failed"),
        (InputError("Wrong length", where=__file__), "failed"),
        (InputError("There are no finished token shards here", where="/nowhere/rows"), "hindered"),
        (FileNotFoundError(2, "No such file or directory"), "hindered"),
        (OSError(28, "No space left on device"), "hindered"),
        (ResourceError("The store does not answer"), "hindered"),
        (type("ConnectTimeoutError", (Exception,), {})("Connect timeout on endpoint URL"), "hindered"),
    ],
)
def test_what_comes_from_outside_is_no_fault_of_the_trials_values(error: Exception, end: str) -> None:
    assert end_of(error) == end
