"""What may happen to a training job on a cluster, a function for each, and what became of the job.

`tests/cluster` asserts on the results, `make chaos-cluster` prints them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from rayloom.submit.local_cluster import kill_node, lose_node
from support.training_cluster import EVERY_STEPS, NUM_STEPS, TrainingCluster

STRUCK_AT_STEP = 120
CUT_SECONDS = 30.0
NOTICE_SECONDS = 60.0
UNDISTURBED = "undisturbed"


@dataclass(frozen=True)
class Result:
    """One fault, for a table and for a test."""

    fault: str
    outcome: str
    work_lost: str
    is_as_it_should_be: bool


def undisturbed(here: TrainingCluster) -> None:
    """The run that all others are compared with."""
    here.submit(UNDISTURBED)
    job = here.ended(UNDISTURBED)
    assert job.status == "SUCCEEDED", f"{job.message}: {here.rayloom('jobs', 'logs', UNDISTURBED).stdout}"


def node_killed(here: TrainingCluster) -> Result:
    """With its disk, if it has one of its own."""
    lose = lose_node if here.cluster.shape.own_disks else kill_node
    return _struck(here, "node-killed", "a worker node is lost", lambda node: lose(here.cluster, node))


def network_cut(here: TrainingCluster) -> Result:
    what = "network is cut" if here.has_own_networks else "processes stand still (no networks to cut here)"
    fault = f"a worker node's {what} for {CUT_SECONDS:.0f} s"
    return _struck(here, "network-cut", fault, lambda node: here.cut_off(node, CUT_SECONDS))


def worker_killed(here: TrainingCluster) -> Result:
    def kill(node: int) -> None:
        for at, process in here.processes("RayTrainWorker"):
            if at == node:
                process.send_signal(signal.SIGKILL)

    return _struck(here, "worker-killed", "a training worker's process is killed", kill)


def driver_killed(here: TrainingCluster) -> Result:
    """The job fails with its driver, and `rayloom jobs retry` goes on."""

    def kill(_: int) -> None:
        for process in here.drivers("driver-killed"):
            process.send_signal(signal.SIGKILL)
        assert here.ended("driver-killed").status == "FAILED"
        assert here.rayloom("jobs", "retry", "driver-killed").returncode == 0

    return _struck(here, "driver-killed", "the job's driver is killed; `rayloom jobs retry`", kill)


def job_stopped(here: TrainingCluster) -> Result:
    """`rayloom jobs stop` lets the job save a checkpoint first, so that `retry` repeats nothing."""

    def stop(_: int) -> None:
        stopped = here.rayloom("jobs", "stop", "job-stopped")
        assert stopped.returncode == 0, stopped.stderr
        assert here.rayloom("jobs", "retry", "job-stopped").returncode == 0

    return _struck(here, "job-stopped", "`rayloom jobs stop`, then `rayloom jobs retry`", stop, most_lost_steps=0)


def node_told_to_leave(here: TrainingCluster) -> Result:
    """As a cloud takes back a spot machine: first a notice, for which the job saves a checkpoint, then it is gone."""

    def take_away(node: int) -> None:
        label = f"worker-{node}"
        id = next(known.id for known in here.cluster.api().nodes() if known.labels["rayloom.io/node"] == label)  # noqa: A001
        notice = ["drain-node", "--node-id", id, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        deadline = ["--deadline-remaining-seconds", "600", "--address", here.cluster.gcs_address]
        command = [sys.executable, "-m", "ray.scripts.scripts", *notice, *deadline]
        subprocess.run(command, env={**os.environ, **here.cluster.environment}, check=True, capture_output=True)
        until = time.monotonic() + NOTICE_SECONDS
        while "a machine is about to leave; the checkpoint of step" not in here.cluster.api().logs(here.job(name).id):
            assert time.monotonic() < until, "no checkpoint for the notice"
            time.sleep(0.2)
        kill_node(here.cluster, node)

    name = "node-told-to-leave"
    return _struck(here, name, "a worker node is told that it leaves, and does", take_away)


FAULTS = (node_killed, node_told_to_leave, network_cut, worker_killed, driver_killed, job_stopped)


def _struck(
    here: TrainingCluster, name: str, fault: str, strike: Callable[[int], None], most_lost_steps: int = EVERY_STEPS
) -> Result:
    """Submits a job, lets the fault strike a node on which it trains, and compares its losses with the undisturbed."""
    here.submit(name)
    here.wait_for_step(name, STRUCK_AT_STEP)
    node = here.node_that_trains()
    reached = here.reached(name)
    strike(node)
    reached = max(reached, here.reached(name))  # what was done is still there until the job takes it up again
    job = here.ended(name)
    here.mend()
    if job.status != "SUCCEEDED":
        return Result(fault, f"{job.status.lower()}: {job.reason}", "unknown", is_as_it_should_be=False)
    resumed = here.artifact(name).manifest.metrics.get("resumed_at_steps", [])
    lost = max(0, reached - resumed[0]) if resumed else 0
    is_equal = here.losses(name) == here.losses(UNDISTURBED)
    how = f"continued at step {resumed[0]}" if resumed else "waited and went on"
    losses = f"all {NUM_STEPS} losses are the undisturbed run's" if is_equal else "losses differ"
    return Result(
        fault,
        f"{how}; {losses}",
        f"{lost} steps of {NUM_STEPS} (a checkpoint every {EVERY_STEPS})" if lost else "none",
        is_as_it_should_be=is_equal and lost <= most_lost_steps and len(resumed) <= 1,
    )
