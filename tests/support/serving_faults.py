"""What may happen to a service on a cluster, and what became of it: for tests/cluster and `make chaos-cluster`."""

from __future__ import annotations

import contextlib
import time

from rayloom.errors import ResourceError
from rayloom.submit.local_cluster import kill_node, start_again
from support.serving_cluster import Asker, ServingCluster
from support.training_faults import Result

HEADLESS_SECONDS = 15.0
MOST_STARTS = 4
AFTERWARDS_SECONDS = 15.0


def head_restarted(here: ServingCluster) -> Result:
    """The head dies with all that runs on it, stays away for a while, and comes back from what Redis kept."""
    assert here.ask()
    with Asker(here) as asker:
        kill_node(here.cluster, 0)
        gone = time.monotonic()
        time.sleep(HEADLESS_SECONDS)
        without_head = sum(is_right for _, is_right in asker.answers)
        _start_head(here)
        here.await_running()
        back = time.monotonic()
        time.sleep(AFTERWARDS_SECONDS)
    answered = sum(is_right for _, is_right in asker.answers)
    afterwards = sum(is_right for moment, is_right in asker.answers if moment > back)
    failed = len(asker.answers) - answered
    return Result(
        f"the head dies and is back after {back - gone:.0f} s (control store in Redis)",
        f"{answered} of {len(asker.answers)} requests answered, {without_head} of them without a head",
        f"{failed} requests" if failed else "none",
        is_as_it_should_be=without_head > 0 and afterwards > 0 and failed == 0,
    )


def _start_head(here: ServingCluster) -> None:
    """As Kubernetes does: a head that ends is started again. Ray gives its agents 15 s, too few on a busy machine."""
    for _ in range(MOST_STARTS - 1):
        with contextlib.suppress(ResourceError):
            here.cluster = start_again(here.cluster, 0)
            return
    here.cluster = start_again(here.cluster, 0)
