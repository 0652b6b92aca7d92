"""Checks whether a cluster has the resources that a job requests at the same time, from the job's spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rayloom.artifacts.lineage import base_of, recorded_base
from rayloom.artifacts.manifest import Manifest
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import ResourceError
from rayloom.specs.base import Bundle, JobSpec
from rayloom.submit.jobs_api import Node

DRIVER_CPUS = 1.0
PROCESS_BYTES = 1_000_000_000
"""Memory of a process with torch, transformers and Ray, before it loads a model."""
WEIGHTS_FACTOR = 1.25
"""Memory of a model's weights with what is computed beside them, relative to its files."""


def task_memory_bytes(parents: Mapping[str, Artifact], store: Store) -> int:
    """Memory of a task that loads one of the job's models after the other, from the sizes in their manifests."""
    models = [parent for parent in parents.values() if parent.manifest.content in ("model", "adapter")]
    sizes = [0]
    for model in models:
        base = base_of(model, None, store) if model.manifest.content == "adapter" and recorded_base(model) else model
        sizes.append(sum(weights_bytes(artifact.manifest) for artifact in {model.id: model, base.id: base}.values()))
    return PROCESS_BYTES + int(WEIGHTS_FACTOR * max(sizes))


def weights_bytes(manifest: Manifest) -> int:
    return sum(file.size_bytes for file in manifest.files if file.path.endswith(".safetensors"))


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
