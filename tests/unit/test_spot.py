"""What spot workers save: prices, the work that preemptions take, and what `plan` makes of both."""

from __future__ import annotations

from typing import Any

import pytest

from rayloom.kinds import SPECS
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.base import fingerprinted
from rayloom.specs.files.document import parse
from rayloom.specs.files.load import validate
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.endurance import Prices
from rayloom.train.planning.spot import add_saving, estimate

TRAIN = """
kind: train
name: tuned
base: artifact:m
data: {{type: corpus, corpus: "artifact:c"}}
global_batch_tokens: 8192
num_steps: 1000
learning_rate: 1e-3
checkpoints: {{every_steps: {every}}}
workers: {{num_workers: 4{prices}}}
"""


def prices(**changed: Any) -> Prices:
    plain = {"on_demand_per_worker_hour": 4, "spot_per_worker_hour": 1, "expected_hours": 10}
    return Prices.model_validate({**plain, "preemptions_per_worker_day": 0, "minutes_to_restart": 0, **changed})


def spec(every: int = 100, **changed: Any) -> TrainSpec:
    described = f", prices: {prices(**changed).model_dump_json()}" if changed else ""
    read = validate(parse(TRAIN.format(every=every, prices=described), "x"), SPECS)
    assert isinstance(read, TrainSpec)
    return read


def test_nothing_taken_away_saves_the_difference_of_the_prices() -> None:
    found = estimate(prices(), num_workers=4, checkpoint_minutes=60)
    assert found is not None
    assert (found.on_demand_cost, found.spot_cost, found.saving) == (160, 40, 0.75)


def test_each_loss_costs_half_a_checkpoints_interval_and_the_start_anew() -> None:
    """Four workers, six losses a day each: one an hour in all, of 20 + 10 minutes, so half of the time is lost."""
    found = estimate(prices(preemptions_per_worker_day=6, minutes_to_restart=10), 4, checkpoint_minutes=40)
    assert found is not None
    assert found.lost_minutes == 30
    assert found.spot_hours == pytest.approx(20)
    assert found.preemptions == pytest.approx(20)
    assert found.saving == pytest.approx(0.5)


def test_a_run_that_loses_as_much_as_it_gains_never_ends() -> None:
    assert estimate(prices(preemptions_per_worker_day=6, minutes_to_restart=40), 4, checkpoint_minutes=40) is None


@pytest.mark.parametrize(
    ("every", "changed", "facts", "warning"),
    [
        (100, {"minutes_to_restart": 5}, ["160.00 for 10 h of 4 workers", "saves 75%"], ""),
        (1000, {"preemptions_per_worker_day": 24}, [], "taken away faster than the run gets on"),
        (100, {"preemptions_per_worker_day": 4}, ["saves 62%"], "gives up after faults.max_restarts: 3"),
        (100, {"spot_per_worker_hour": 5}, ["saves -25%"], "would cost more than they save"),
    ],
)
def test_plan_says_what_is_saved_and_what_stands_against_it(
    every: int, changed: dict[str, Any], facts: list[str], warning: str
) -> None:
    sheet = PlanSheet()
    add_saving(sheet, spec(every, **changed), num_steps=1000)
    said = " ".join(value for _, value in sheet.facts)
    assert all(fact in said for fact in facts)
    assert warning in " ".join(sheet.warnings)
    assert bool(sheet.warnings) == bool(warning)


def test_prices_change_no_result_and_without_them_nothing_is_said() -> None:
    sheet = PlanSheet()
    add_saving(sheet, spec(), num_steps=1000)
    assert sheet.facts == []
    assert fingerprinted(spec()) == fingerprinted(spec(minutes_to_restart=7))
