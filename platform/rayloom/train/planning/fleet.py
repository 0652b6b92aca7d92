"""What `plan` says about a job on its `hardware`: whether it fits into memory, how long it takes, what is wasted."""

from __future__ import annotations

from collections.abc import Iterator

from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.hardware import Fleet, fleet_of
from rayloom.train.planning.layouts import ASSUMED_UTILISATION, counts_to_cut, fastest, layout_of, step_seconds
from rayloom.train.sizes.estimates import flops_per_token, memory_per_device
from rayloom.train.sizes.model_size import ModelSize
from rayloom.train.sizes.stages import stages_of, waiting_share
from rayloom.train.sizes.traffic import traffic

WORTH_SAYING = 0.9
"""Another layout is recommended if a step takes less than this share of the time."""
CONTEXT_BYTES = 2 * 10**9
"""CUDA's context, NCCL's buffers and kernels' workspaces."""
FRAGMENTATION_SHARE = 0.05
TOKENS_THAT_FILL_A_DEVICE = 4096
"""With fewer tokens in a micro-batch, launching kernels takes longer than computing them."""


def add_fleet(sheet: PlanSheet, spec: TrainSpec, size: ModelSize, num_tokens: int) -> None:
    """Adds memory by ZeRO stage, time, problems and warnings to the sheet. `num_tokens`: tokens of the whole run."""
    if spec.sharding.pipeline > 1:
        layers = ", ".join(str(stage.size.num_layers) for stage in stages_of(spec, size))
        flow, waits = f"{spec.accumulation_steps} micro-batches of a step flow through them", waiting_share(spec)
        sheet.add("pipeline", f"stages of {layers} layers; {flow}, and each waits {waits:.0%} of the time")
    elif spec.workers.num_workers > 1:
        sheet.add("memory by ZeRO stage", ", ".join(f"{n}: {gigabytes(_at_stage(spec, n), size)}" for n in range(4)))
    if spec.hardware is None:
        return
    fleet = fleet_of(spec.hardware)
    device, workers = fleet.device, spec.workers.num_workers
    nodes = f"{fleet.num_nodes} node{'s' * (fleet.num_nodes > 1)} × {fleet.devices_per_node} {device.name}"
    sheet.add("hardware", f"{nodes}, {device.peak_flops / 1e12:,.0f} TFLOP/s each by the data sheet")
    flops = flops_per_token(size, spec.sequence_length_tokens, spec.objective_in_use) * num_tokens
    seconds = flops / (device.peak_flops * ASSUMED_UTILISATION * workers)
    add_layouts(sheet, spec, size, fleet)
    sheet.add(
        "time", f"about {duration(seconds)} on {workers} devices, if they reach {ASSUMED_UTILISATION:.0%} of that"
    )
    sheet.problems += problems(spec, size, fleet)
    sheet.warnings += warnings(spec, size, fleet)


def problems(spec: TrainSpec, size: ModelSize, fleet: Fleet) -> Iterator[str]:
    """One sentence for each reason why the run would fail on this hardware."""
    if not spec.workers.gpus_per_worker:
        yield f"hardware is {spec.hardware}, but workers.gpus_per_worker is 0: set it to 1"
    if spec.workers.num_workers > fleet.num_devices:
        yield f"{spec.workers.num_workers} workers need as many devices; {spec.hardware} has {fleet.num_devices}"
    if spec.sharding.in_layers > fleet.devices_per_node:
        yield (
            f"sharding.tensor × context is {spec.sharding.in_layers} and reaches over nodes, which is too slow: "
            f"set it to {fleet.devices_per_node} at most"
        )
    for name, count in counts_to_cut(size).items():
        if count % spec.sharding.tensor:
            yield f"sharding.tensor {spec.sharding.tensor} does not divide the model's {count} {name}"
    if spec.sharding.expert > 1 and size.num_experts % spec.sharding.expert:
        yield f"sharding.expert {spec.sharding.expert} does not divide the model's {size.num_experts} experts"
    if spec.precision == "bf16" and not fleet.device.has_bf16:
        yield f"{fleet.device.name} does not compute in bf16: set precision: fp16"
    if spec.float8 is not None and not fleet.device.has_float8:
        yield f"{fleet.device.name} does not multiply in float8: leave float8 out"
    if not fits(spec, size, fleet):
        yield (
            f"{gigabytes(spec, size)} and what the driver takes do not fit into the "
            f"{fleet.device.memory_bytes / 1e9:.0f} GB of a {fleet.device.name}: {advice(spec, size, fleet)}"
        )


def warnings(spec: TrainSpec, size: ModelSize, fleet: Fleet) -> Iterator[str]:
    """One sentence for each setting that wastes the hardware."""
    engines = 0 if spec.rollouts is None else int(sum(bundle.gpus for bundle in spec.rollouts.bundles()))
    idle = fleet.num_devices - spec.workers.num_workers - engines
    if idle > 0:
        yield f"{idle} of {fleet.num_devices} devices would have no worker: raise workers.num_workers"
    tokens = spec.micro_batch_sequences * spec.sequence_length_tokens
    if tokens < TOKENS_THAT_FILL_A_DEVICE:
        yield f"{tokens:,} tokens at once do not fill a {fleet.device.name}: raise micro_batch_sequences"
    if size.vocabulary_size % 64:
        yield f"a vocabulary of {size.vocabulary_size:,} is no multiple of 64, which makes the head's product slower"
    if spec.precision == "fp32":
        yield "precision fp32 leaves the matrix units for half precision unused: set precision: bf16"
    if spec.sharding.offload.optimizer and fits(_without_offload(spec), size, fleet):
        yield "sharding.offload makes every step slower, and all fits without it"
    if spec.recomputed is not None and fits(spec.model_copy(update={"activation_checkpointing": False}), size, fleet):
        yield "activation_checkpointing takes about a third more time, and all fits without it"


def add_layouts(sheet: PlanSheet, spec: TrainSpec, size: ModelSize, fleet: Fleet) -> None:
    """Adds the time of a step with this layout, and the fastest layout that fits if that is another one."""
    if spec.workers.num_workers == 1:
        return
    own, best = step_seconds(spec, size, fleet), fastest(spec, size, fleet, lambda other: fits(other, size, fleet))
    sent = traffic(spec, size).total / 1e9
    sheet.add("layout", f"{layout_of(spec)}: {own:,.2g} s a step, in which a device sends {sent:,.3g} GB")
    if best is None or layout_of(best) == layout_of(spec):
        return
    seconds = step_seconds(best, size, fleet)
    sheet.add("fastest that fits", f"{layout_of(best)}: {seconds:,.2g} s a step, {gigabytes(best, size)} a device")
    if fits(spec, size, fleet) and seconds < WORTH_SAYING * own:
        sheet.warnings.append(f"{layout_of(best)} would take {seconds / own:.0%} of a step's time")


def fits(spec: TrainSpec, size: ModelSize, fleet: Fleet) -> bool:
    needed = memory_per_device(spec, size).total * (1 + FRAGMENTATION_SHARE) + CONTEXT_BYTES
    return needed <= fleet.device.memory_bytes


def advice(spec: TrainSpec, size: ModelSize, fleet: Fleet) -> str:
    """The smallest change of the spec that makes the run fit, as part of a sentence."""
    halved = spec.model_copy(update={"micro_batch_sequences": max(1, spec.micro_batch_sequences // 2)})
    recomputed = spec.model_copy(update={"activation_checkpointing": True})
    further = () if spec.sharding.pipeline > 1 else range(spec.sharding.zero_stage + 1, 4)
    changes = [
        (f"micro_batch_sequences: {halved.micro_batch_sequences}", halved),
        *((f"sharding.zero_stage: {stage}", _at_stage(spec, stage)) for stage in further),
        ("activation_checkpointing: true", recomputed),
    ]
    if further:
        changes.append(("activation_checkpointing: true with sharding.zero_stage: 3", _at_stage(recomputed, 3)))
    for said, changed in changes:
        if changed != spec and fits(changed, size, fleet):
            return f"it would with {said} ({gigabytes(changed, size)})"
    best = fastest(spec, size, fleet, lambda other: fits(other, size, fleet))
    if best is not None:
        return f"it would with {layout_of(best)} ({gigabytes(best, size)})"
    return "take more devices with sharding.zero_stage: 3, or a smaller model"


def gigabytes(spec: TrainSpec, size: ModelSize) -> str:
    return f"{memory_per_device(spec, size).total / 1e9:,.3g} GB"


def duration(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.3g} {unit}"
    return f"{seconds:,.3g} seconds"


def _at_stage(spec: TrainSpec, stage: int) -> TrainSpec:
    return spec.model_copy(update={"sharding": spec.sharding.model_copy(update={"zero_stage": stage})})


def _without_offload(spec: TrainSpec) -> TrainSpec:
    offload = type(spec.sharding.offload)()
    return spec.model_copy(update={"sharding": spec.sharding.model_copy(update={"offload": offload})})
