"""The cluster that a command uses: the one named, else that of the environment, else a local one on this machine."""

from __future__ import annotations

import os

from rayloom.submit.jobs_api import DEFAULT_ADDRESS, JobsApi, token_here
from rayloom.submit.local_cluster import read_state


def cluster_api(address: str | None) -> JobsApi:
    """The Jobs API of a cluster."""
    named = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    local = read_state()
    if local is not None and named in (None, local.dashboard):
        return JobsApi(local.dashboard, token_here() or local.token())
    return JobsApi(named or DEFAULT_ADDRESS, token_here())
