"""How many trials run at once, from the resources of nodes and of one trial; and the memory of a trial's worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rayloom.artifacts.store import Artifact
from rayloom.errors import ResourceError
from rayloom.specs.tune import TuneSpec
from rayloom.text.packed.shards import TokenShards
from rayloom.train.planning.rollouts import engine_bytes
from rayloom.train.sizes.estimates import memory_per_device
from rayloom.train.sizes.model_size import ModelSize, size_of_architecture, size_of_base, with_teachers_size
from rayloom.train.weights.teacher import teacher_of

Amounts = Mapping[str, float]
"""Amounts of `CPU`, `GPU` and `memory` (bytes), Ray's names."""
_NAMES = {"CPU": "CPUs", "GPU": "GPUs", "memory": "bytes of memory"}


def bundles_of(spec: TuneSpec, memory_bytes_per_worker: int | None = None) -> list[dict[str, float]]:
    """The resources of one trial: a bundle for each worker, then for each engine; a bundle must fit on one node."""
    workers = spec.train.workers
    gpus = spec.gpus_per_trial / workers.num_workers
    asked = spec.resources.memory_bytes_per_trial
    memory = asked / workers.num_workers if asked is not None else memory_bytes_per_worker
    bundle = {"CPU": float(workers.cpus_per_worker), "GPU": gpus, "memory": float(memory or 0)}
    rollouts = spec.train.rollouts
    engines = (
        [] if rollouts is None else [{"CPU": float(one.cpus), "GPU": float(one.gpus)} for one in rollouts.bundles()]
    )
    of_workers = [bundle] * workers.num_workers
    return [{name: amount for name, amount in one.items() if amount > 0} for one in (*of_workers, *engines)]


def num_that_fit(nodes: Sequence[Amounts], bundles: Sequence[Amounts], at_most: int = 1_000_000) -> int:
    """How many trials fit on the nodes at once, at most `at_most`; each bundle goes to the first node with room.

    Trials that each hold a part of their bundles and wait for the rest would deadlock, so no more trials are started
    than fit as a whole.
    """
    free = [_with_whole_parts(node, bundles[0].get("GPU", 0.0)) for node in nodes]
    count = 0
    while count < at_most and all(_placed(bundle, free) for bundle in bundles):
        count += 1
    return count


def _with_whole_parts(node: Amounts, gpus: float) -> dict[str, float]:
    """The node's resources for bundles of `gpus` each; a fraction is of one GPU, so two GPUs fit two of 0.6."""
    if not 0 < gpus < 1:
        return dict(node)
    parts = int(node.get("GPU", 0.0)) * int(1 / gpus + 1e-9)
    return {**node, "GPU": parts * gpus}


def num_concurrent(spec: TuneSpec, nodes: Sequence[Amounts], memory_bytes_per_worker: int | None = None) -> int:
    """The number of concurrent trials that fit, at most `max_concurrent_trials`. Raises ResourceError if none fits."""
    bundles = bundles_of(spec, memory_bytes_per_worker)
    wanted = spec.num_trials or 1
    fitting = num_that_fit(nodes, bundles, min(wanted, spec.resources.max_concurrent_trials or wanted))
    if fitting == 0:
        raise ResourceError(f"One trial does not fit: {shortage(nodes, bundles)}", fix=_fix(bundles))
    return fitting


def shortage(nodes: Sequence[Amounts], bundles: Sequence[Amounts]) -> str:
    """The resources that one trial lacks, in words."""
    for name, amount in bundles[0].items():
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if most < amount:
            return f"a worker needs {_shown(amount)} {_NAMES[name]}, and no node has more than {_shown(most)}"
    return f"it needs {len(bundles)} workers of {_said(bundles[0])}, and the cluster has no room for all of them"


def _placed(bundle: Amounts, free: list[dict[str, float]]) -> bool:
    """Subtracts the bundle from the first node with room for it; False if there is none."""
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


# The memory that a trial's worker needs, from the plan of its training, and whether its share of a GPU has it.

PROCESS_BYTES = 900_000_000
"""Memory of a worker process with torch, transformers and Ray, before it loads a model."""


def memory_bytes_per_worker(spec: TuneSpec, parents: Mapping[str, Artifact]) -> int | None:
    """Main memory of one worker of a trial, with its share of engines.

    None if a GPU holds the model or the base's sizes are not known.

    Computed for the training job as written: a searched rank or length changes it little.
    """
    if spec.train.workers.gpus_per_worker:
        return None
    size = _size(spec, parents)
    if size is None:
        return None
    rollouts = spec.train.rollouts
    engines = 0 if rollouts is None else rollouts.num_engines * engine_bytes(spec.train, size)
    return PROCESS_BYTES + memory_per_device(spec.train, size).total + engines // spec.train.workers.num_workers


def gpu_memory_problems(spec: TuneSpec, parents: Mapping[str, Artifact], gpu_bytes: int | None) -> list[str]:
    """What to do if a worker's share of a GPU has too little memory; empty if it has enough or that is not known.

    Trials on one GPU share its memory without limits, so the last one to allocate would fail.
    """
    part = min(1.0, spec.gpus_per_trial / spec.train.workers.num_workers)
    size = _size(spec, parents) if part and gpu_bytes else None
    if size is None or gpu_bytes is None:
        return []
    needed, room = memory_per_device(spec.train, size).total, gpu_bytes * part
    if needed <= room:
        return []
    problem = (
        f"A trial needs about {needed / 1e9:,.2g} GB of GPU memory, and {part:g} of a GPU has {room / 1e9:,.2g} GB"
    )
    return [f"{problem}: raise resources.gpus_per_trial, or lower the training job's micro_batch_sequences"]


def _size(spec: TuneSpec, parents: Mapping[str, Artifact]) -> ModelSize | None:
    train = spec.train
    if train.architecture is not None:
        rows = TokenShards(parents["train.data.corpus"].path / "train", train.sequence_length_tokens)
        size = size_of_architecture(train.architecture, rows.vocabulary_size)
    else:
        size = size_of_base(train, parents["train.base"].path)
    own = {path.removeprefix("train."): parent for path, parent in parents.items() if path.startswith("train.")}
    return with_teachers_size(size, train, teacher_of(train, own))
