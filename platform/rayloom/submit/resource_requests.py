"""Checks whether a cluster has the resources that a job requests at the same time, from the job's spec."""

from __future__ import annotations

from collections.abc import Sequence

from rayloom.errors import ResourceError
from rayloom.specs.base import Bundle, JobSpec
from rayloom.submit.jobs_api import Node

DRIVER_CPUS = 1.0


def check_fits(specs: Sequence[JobSpec], nodes: Sequence[Node], can_grow: bool) -> list[str]:
    """Notes for the user. Raises ResourceError if a job can never be placed on these nodes.

    `can_grow`: an autoscaler adds nodes, so a shortage is only noted.
    """
    notes = []
    for spec in specs:
        short = _shortage(spec.bundles(), nodes)
        if short and can_grow:
            notes.append(f"{spec.name}: {short}; the cluster's autoscaler must add nodes")
        elif short:
            fix = "Request less in the job file, or add nodes or larger ones."
            raise ResourceError(f"{spec.name} does not fit on this cluster: {short}", fix=fix)
    return notes


def _shortage(bundles: Sequence[Bundle], nodes: Sequence[Node]) -> str:
    """The shortage in words; empty if all bundles fit on the nodes at once (first-fit decreasing)."""
    free = [[node.resources.get("CPU", 0.0), node.resources.get("GPU", 0.0)] for node in nodes]
    for number, bundle in enumerate(sorted(bundles, key=lambda b: (b.gpus, b.cpus), reverse=True)):
        chosen = next((n for n in free if n[0] >= bundle.cpus and n[1] >= bundle.gpus), None)
        if chosen is None:
            has_cpus = sum(node.resources.get("CPU", 0.0) for node in nodes)
            has_gpus = sum(node.resources.get("GPU", 0.0) for node in nodes)
            each = f"{bundle.cpus:g} CPUs" + (f" and {bundle.gpus:g} GPUs" if bundle.gpus else "")
            offer = f"{len(nodes)} nodes with {has_cpus:g} CPUs and {has_gpus:g} GPUs in all"
            workers = "1 worker" if len(bundles) == 1 else f"{len(bundles)} workers"
            return f"it needs {workers} with {each} each, and there is room for {number} on {offer}"
        chosen[0] -= bundle.cpus
        chosen[1] -= bundle.gpus
    return ""
