"""What spot workers would cost and save, from the prices of a spec: arithmetic for `plan`, nothing that runs."""

from __future__ import annotations

from dataclasses import dataclass

from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.endurance import Prices

MINUTES_PER_HOUR, HOURS_PER_DAY = 60.0, 24.0


@dataclass(frozen=True)
class SpotEstimate:
    """A run on spot workers beside the same run on demand."""

    on_demand_cost: float
    spot_cost: float
    spot_hours: float
    preemptions: float
    lost_minutes: float
    """By each preemption: work since the last checkpoint, on average, and the start anew."""

    @property
    def saving(self) -> float:
        """Part of the price on demand; less than none where spot workers cost more."""
        return 1 - self.spot_cost / self.on_demand_cost


def estimate(prices: Prices, num_workers: int, checkpoint_minutes: float) -> SpotEstimate | None:
    """None where the run would lose as much as it gains, and so never end.

    A preemption strikes any of the workers, at any moment between two checkpoints. That training saves a checkpoint
    when it is told of one is not counted: not every cloud tells in time.
    """
    per_hour = num_workers * prices.preemptions_per_worker_day / HOURS_PER_DAY
    lost_minutes = checkpoint_minutes / 2 + prices.minutes_to_restart
    useful = 1 - per_hour * lost_minutes / MINUTES_PER_HOUR
    if useful <= 0:
        return None
    hours = prices.expected_hours / useful
    return SpotEstimate(
        on_demand_cost=num_workers * prices.expected_hours * prices.on_demand_per_worker_hour,
        spot_cost=num_workers * hours * prices.spot_per_worker_hour,
        spot_hours=hours,
        preemptions=per_hour * hours,
        lost_minutes=lost_minutes,
    )


def add_saving(sheet: PlanSheet, spec: TrainSpec, num_steps: int) -> None:
    """Adds what spot workers would save, where the spec has prices."""
    prices, workers = spec.workers.prices, spec.workers.num_workers
    if prices is None:
        return
    found = estimate(prices, workers, _checkpoint_minutes(spec, num_steps, prices.expected_hours))
    if found is None:
        sheet.warnings.append(
            "spot workers would be taken away faster than the run gets on: checkpoint more often, or run on demand"
        )
        return
    sheet.add("cost on demand", f"{found.on_demand_cost:,.2f} for {prices.expected_hours:g} h of {workers} workers")
    sheet.add(
        "cost on spot",
        f"{found.spot_cost:,.2f} for about {found.spot_hours:.3g} h: {found.preemptions:.2g} preemptions, each losing "
        f"some {found.lost_minutes:.2g} minutes; saves {found.saving:.0%}",
    )
    if found.saving <= 0:
        sheet.warnings.append("spot workers would cost more than they save: checkpoint more often, or run on demand")
    if found.preemptions > spec.faults.max_restarts:
        sheet.warnings.append(
            f"about {found.preemptions:.2g} preemptions, and the run gives up after faults.max_restarts: "
            f"{spec.faults.max_restarts}"
        )


def _checkpoint_minutes(spec: TrainSpec, num_steps: int, expected_hours: float) -> float:
    """Between two checkpoints, as the spec's steps or minutes come first."""
    whole = expected_hours * MINUTES_PER_HOUR
    by_steps = whole * min(1.0, spec.checkpoints.every_steps / num_steps)
    return min(by_steps, spec.checkpoints.every_minutes or whole)
