"""How many trials run at once: pure arithmetic over what nodes have and one trial needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rayloom.errors import ResourceError
from rayloom.specs.tune import TuneSpec

Amounts = Mapping[str, float]
"""Of `CPU`, `GPU` and `memory` (bytes), as Ray names them."""
_NAMES = {"CPU": "CPUs", "GPU": "GPUs", "memory": "bytes of memory"}


def bundles_of(spec: TuneSpec, memory_bytes_per_worker: int | None = None) -> list[dict[str, float]]:
    """What one trial holds: a bundle for each worker, which must lie on one node."""
    workers = spec.train.workers
    gpus = spec.gpus_per_trial / workers.num_workers
    asked = spec.resources.memory_bytes_per_trial
    memory = asked / workers.num_workers if asked is not None else memory_bytes_per_worker
    bundle = {"CPU": float(workers.cpus_per_worker), "GPU": gpus, "memory": float(memory or 0)}
    return [{name: amount for name, amount in bundle.items() if amount > 0}] * workers.num_workers


def num_that_fit(nodes: Sequence[Amounts], bundles: Sequence[Amounts], at_most: int = 1_000_000) -> int:
    """How many trials the nodes hold at once, each bundle on the first node with room for it; counted up to `at_most`.

    A trial that holds part of its bundles while it waits for the rest would lock out another that does the same: so
    only whole trials count, and no more than these are ever started.
    """
    free = [_with_whole_parts(node, bundles[0].get("GPU", 0.0)) for node in nodes]
    count = 0
    while count < at_most and all(_placed(bundle, free) for bundle in bundles):
        count += 1
    return count


def _with_whole_parts(node: Amounts, gpus: float) -> dict[str, float]:
    """What the node has for such bundles: a part of a GPU is of one GPU, so 0.6 of each of two GPUs is two bundles."""
    if not 0 < gpus < 1:
        return dict(node)
    parts = int(node.get("GPU", 0.0)) * int(1 / gpus + 1e-9)
    return {**node, "GPU": parts * gpus}


def num_concurrent(spec: TuneSpec, nodes: Sequence[Amounts], memory_bytes_per_worker: int | None = None) -> int:
    """Trials at once: what fits, at most what the spec says. Raises ResourceError where not even one fits."""
    bundles = bundles_of(spec, memory_bytes_per_worker)
    wanted = spec.num_trials or 1
    fitting = num_that_fit(nodes, bundles, min(wanted, spec.resources.max_concurrent_trials or wanted))
    if fitting == 0:
        raise ResourceError(f"One trial does not fit: {shortage(nodes, bundles)}", fix=_fix(bundles))
    return fitting


def shortage(nodes: Sequence[Amounts], bundles: Sequence[Amounts]) -> str:
    """What keeps one trial from running, in words."""
    for name, amount in bundles[0].items():
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if most < amount:
            return f"a worker needs {_shown(amount)} {_NAMES[name]}, and no node has more than {_shown(most)}"
    return f"it needs {len(bundles)} workers of {_said(bundles[0])}, and the cluster has no room for all of them"


def _placed(bundle: Amounts, free: list[dict[str, float]]) -> bool:
    """Takes the bundle out of the first node with room for it; False where none has."""
    for node in free:
        if all(node.get(name, 0.0) >= amount - 1e-9 for name, amount in bundle.items()):
            for name, amount in bundle.items():
                node[name] -= amount
            return True
    return False


def _said(bundle: Amounts) -> str:
    return ", ".join(f"{_shown(amount)} {_NAMES[name]}" for name, amount in bundle.items())


def _shown(amount: float) -> str:
    return f"{amount:,.4g}" if amount < 1e6 else f"{amount:,.0f}"


def _fix(bundles: Sequence[Amounts]) -> str:
    return (
        "Lower workers.num_workers, workers.cpus_per_worker or resources of the trial "
        f"(now {len(bundles)} × {_said(bundles[0])}), or name a larger cluster in RAY_ADDRESS."
    )
