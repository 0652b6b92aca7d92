"""`rayloom cluster up|down`."""

from __future__ import annotations

import argparse

from rayloom.observe.progress import console, say
from rayloom.submit import local_cluster


def up(options: argparse.Namespace) -> None:
    """Starts the cluster and says how to use it."""
    with console.status(f"starting {options.nodes} nodes"):
        cluster = local_cluster.up(options.nodes, options.cpus_per_node, options.port, options.dashboard_port)
    say(f"{options.nodes} nodes of {options.cpus_per_node} CPUs; the dashboard (with its token) is {cluster.dashboard}")
    say("`rayloom submit FILE` and `rayloom jobs list` find it by themselves. To run a job on it from this terminal:")
    say(f"  export RAY_ADDRESS={cluster.gcs_address} RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={cluster.folder}/token")


def down(_: argparse.Namespace) -> None:
    """Ends the cluster."""
    cluster = local_cluster.down()
    say("No local cluster runs." if cluster is None else f"The cluster at {cluster.dashboard} is down.")
