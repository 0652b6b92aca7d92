"""`rayloom cluster up|down`: starts and stops a Ray cluster of several nodes on this machine."""

from __future__ import annotations

import argparse

from rayloom.observe.progress import console, say
from rayloom.submit import local_cluster, own_networks
from rayloom.submit.local_node import Shape


def up(options: argparse.Namespace) -> None:
    """Starts the cluster and prints how to use it."""
    with console().status(f"starting {options.nodes} nodes"):
        shape = Shape(
            options.nodes, options.cpus_per_node, options.port, options.dashboard_port, own_disks=options.own_disks
        )
        networks = own_networks.make(options.nodes) if options.own_networks or options.own_disks else None
        cluster = local_cluster.up(shape, networks)
    say(f"{options.nodes} nodes of {options.cpus_per_node} CPUs; the dashboard (with its token) is {cluster.dashboard}")
    say("`rayloom submit FILE` and `rayloom jobs list` find it by themselves.")
    if cluster.bucket is not None:
        say("The nodes share no disk. Their store is a bucket that ends with the cluster; before `rayloom submit`:")
        say("  export " + " ".join(f"{name}={value}" for name, value in cluster.bucket.settings.items()))
    if cluster.networks is not None:
        say(f"Cut a node off with `ip link set rl{cluster.networks.number}-NODE nomaster`, "
            f"and put it back with `… master {cluster.networks.bridge}`.")  # fmt: skip
        return
    say("To run a job on it from this terminal:")
    say(f"  export RAY_ADDRESS={cluster.gcs_address} RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={cluster.folder}/token")


def down(_: argparse.Namespace) -> None:
    """Stops the cluster."""
    cluster = local_cluster.down()
    say("No local cluster runs." if cluster is None else f"The cluster at {cluster.dashboard} is down.")
