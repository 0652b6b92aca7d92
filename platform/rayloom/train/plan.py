"""The plan of a training job, without training: sizes, memory, steps, data, problems and warnings."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError, RayloomError
from rayloom.observe.memory import available_bytes
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.training_data import ConversationData
from rayloom.train.job import TrainJob
from rayloom.train.planning.fleet import add_fleet
from rayloom.train.planning.preflight import add_method, add_rows
from rayloom.train.precision import computing_precision
from rayloom.train.prepare import job_of, row_counts
from rayloom.train.reporting.trackers import missing_trackers
from rayloom.train.settings import runs_with_other_settings
from rayloom.train.sizes.estimates import checkpoint_bytes, disk_bytes, flops_per_token, memory_per_device, no_room
from rayloom.train.sizes.model_size import ModelSize, size_of_base, size_of_job
from rayloom.train.stored_rows import stored_rows
from rayloom.train.streaming.lane_order import SHARDS_A_LANE, SHARDS_HELD_A_LANE, lane_order
from rayloom.train.streaming.streamed_rows import StreamedRows

USUAL_METHODS = {
    "all weights": {"type": "none"},
    "lora": {"type": "lora"},
    "lora on nf4": {"type": "lora", "quantised_base": "nf4"},
}
MAX_EPOCHS_WORTHWHILE = 4
"""More epochs than this gain little (Muennighoff et al. 2023)."""
TOKENS_PER_PARAMETER = 20
"""With fewer training tokens, a smaller model reaches the same loss with less compute (Hoffmann et al. 2022)."""


def plan(spec: TrainSpec, parents: Mapping[str, Artifact], job_directory: Path) -> PlanSheet:
    """Facts in reading order, a problem for everything that would make the run fail, and warnings."""
    sheet = PlanSheet()
    store = Store.beside(job_directory)
    sheet.problems += missing_trackers(spec)
    sheet.warnings += runs_with_other_settings(spec, store)
    with tempfile.TemporaryDirectory() as folder:
        try:
            job = job_of(spec, parents, Path(folder), Path(folder) / "result", store=store)
            size = size_of_job(job)
        except RayloomError as error:
            sheet.problems.append(str(error))
            return sheet
        _add_model(sheet, spec, size)
        _add_teacher(sheet, job, size)
        _add_precision(sheet, spec)
        _add_memory(sheet, spec, size)
        _add_memory_by_method(sheet, job)
        _add_disk(sheet, spec, size, store)
        _add_data(sheet, job)
        add_fleet(sheet, spec, size, job.num_rows * spec.sequence_length_tokens)
        counts = row_counts(Path(folder))
        add_rows(sheet, job, counts)
        add_method(sheet, spec, size, counts)
        if spec.architecture is not None:  # a base's shape cannot be changed
            _warn_about_shape(sheet, size)
        _warn_about_memory(sheet, spec, size)
        _warn_about_data(sheet, job, size)
    return sheet


def _add_model(sheet: PlanSheet, spec: TrainSpec, size: ModelSize) -> None:
    sheet.add("parameters", size.parameters)
    sheet.add("trained parameters", f"{size.trained:,} ({size.trained / size.parameters:.2%})")
    per_token = flops_per_token(size, spec.sequence_length_tokens, spec.objective_in_use)
    sheet.add("arithmetic", f"{per_token / 1e6:,.1f} MFLOP a token")


def _add_teacher(sheet: PlanSheet, job: TrainJob, size: ModelSize) -> None:
    if job.spec.teacher is not None and job.teacher is not None and size.of_teacher is not None:
        form = job.spec.teacher.divergence.type.replace("_", " ")
        count = f"{size.of_teacher.parameters:,} parameters"
        sheet.add("teacher", f"{job.teacher.artifact_id}, {count}, {form}, weight {job.spec.teacher.weight:g}")


def _add_precision(sheet: PlanSheet, spec: TrainSpec) -> None:
    precision = computing_precision(spec, spec.workers.gpus_per_worker > 0)
    if precision != spec.precision and spec.hardware is None:
        sheet.add("precision", f"{precision} on a processor like this one, which cannot multiply {spec.precision}")


def _add_memory(sheet: PlanSheet, spec: TrainSpec, size: ModelSize) -> None:
    memory = memory_per_device(spec, size)
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimiser": memory.optimizer,
        "activations": memory.activations,
        "loss": memory.loss,
    } | ({"teacher": memory.teacher} if memory.teacher else {})
    parts_text = ", ".join(f"{name} {_amount(value)}" for name, value in parts.items())
    sheet.add("memory per device", f"{_amount(memory.total)} ({parts_text}; ZeRO stage {spec.sharding.zero_stage})")
    sheet.add("checkpoint", f"{_amount(checkpoint_bytes(size))} every {spec.checkpoints.every_steps:,} steps")


def _add_memory_by_method(sheet: PlanSheet, job: TrainJob) -> None:
    """Adds the memory that usual methods need for this base, to choose one that fits."""
    if job.base is None:
        return
    methods = []
    for name, adapter in USUAL_METHODS.items():
        with contextlib.suppress(ValidationError, InputError):  # a method that does not fit this job or this model
            other = TrainSpec.model_validate(job.spec.model_dump() | {"adapter": adapter})
            methods.append(f"{name} {_amount(memory_per_device(other, size_of_base(other, job.base)).total)}")
    sheet.add("memory by method", ", ".join(methods))


def _warn_about_memory(sheet: PlanSheet, spec: TrainSpec, size: ModelSize) -> None:
    if spec.hardware is not None or spec.workers.gpus_per_worker:
        return  # the job runs on other machines than this one
    needed, free = spec.workers.num_workers * memory_per_device(spec, size).total, available_bytes()
    if needed > free:
        sheet.warnings.append(
            f"the workers need {_amount(needed)} of memory, and {_amount(free)} are free here: submit the job to a "
            "larger cluster, lower micro_batch_sequences, or take a method that needs less"
        )


def _add_disk(sheet: PlanSheet, spec: TrainSpec, size: ModelSize, store: Store) -> None:
    sheet.add("disk", f"{_amount(disk_bytes(spec, size))} at most while it runs")
    # With `hardware`, the job runs on other machines, so this machine's disk does not matter.
    error = None if spec.hardware else no_room(spec, size, store.building_directory(spec.name, "planned"))
    if error is not None:
        sheet.problems.append(str(error))


def _add_data(sheet: PlanSheet, job: TrainJob) -> None:
    spec = job.spec
    train = stored_rows(spec, job.train[0])
    sheet.add("rows", f"{len(train):,} of {spec.sequence_length_tokens:,} tokens ({train.num_tokens:,} tokens)")
    if isinstance(train, StreamedRows):
        _add_streaming(sheet, train, spec)
    for name, folder in job.heldout.items():
        heldout = stored_rows(spec, folder)
        sheet.add(name, f"{len(heldout):,} rows ({heldout.num_tokens:,} tokens)")
    workers = spec.workers.num_workers
    sheet.add(
        "batch",
        f"{spec.global_batch_tokens:,} tokens: {workers} workers × {spec.accumulation_steps} accumulated × "
        f"{spec.micro_batch_sequences} rows",
    )
    epochs = job.num_rows / len(train)
    sheet.add("steps", f"{job.num_steps:,} ({epochs:,.2f} epochs)")
    sheet.add("tokens", f"{job.num_rows * spec.sequence_length_tokens:,} at most")


def _add_streaming(sheet: PlanSheet, rows: StreamedRows, spec: TrainSpec) -> None:
    num_shards, workers = len(rows.rows_of_shards), spec.workers.num_workers
    order = lane_order(rows.rows_of_shards, spec.global_batch_sequences, spec.micro_batch_sequences, spec.seed)
    mine = order.lanes_of_worker(workers)
    held = min(num_shards, SHARDS_HELD_A_LANE * mine)
    size = _amount(held * rows.num_bytes // max(1, num_shards))
    sheet.add("streamed", f"{num_shards:,} shards in {order.num_lanes} lanes; a worker holds {held} at most ({size})")
    readers = mine * workers // order.num_lanes
    if readers > 1:
        what = f"{workers} workers and {order.num_lanes} lanes: each shard is fetched by {readers} workers"
        why = f"the lanes divide a step's micro-batches, and have {SHARDS_A_LANE} shards or more"
        sheet.warnings.append(f"{what} ({why})")


def _warn_about_shape(sheet: PlanSheet, size: ModelSize) -> None:
    head_size = size.hidden_size // size.num_heads
    if head_size not in (64, 128):
        sheet.warnings.append(f"heads of {head_size} are slower than heads of 64 or 128: change num_heads")
    for name, value in (("hidden_size", size.hidden_size), ("feed_forward_size", size.feed_forward_size)):
        if value % 64:
            sheet.warnings.append(f"{name} {value} is not a multiple of 64, which matrix units work in")


def _warn_about_data(sheet: PlanSheet, job: TrainJob, size: ModelSize) -> None:
    spec = job.spec
    rows = len(stored_rows(spec, job.train[0]))
    epochs = job.num_rows / rows
    is_pretraining = spec.architecture is not None
    if is_pretraining and epochs > MAX_EPOCHS_WORTHWHILE:
        sheet.warnings.append(
            f"{epochs:.1f} epochs: repeating text more than {MAX_EPOCHS_WORTHWHILE} times gains little"
        )
    tokens = job.num_rows * spec.sequence_length_tokens
    if is_pretraining and tokens < TOKENS_PER_PARAMETER * size.parameters:
        sheet.warnings.append(
            f"{tokens / size.parameters:.2g} tokens a parameter; a smaller model learns as much from so little text "
            f"(about {TOKENS_PER_PARAMETER} is balanced)"
        )
    if spec.global_batch_sequences > rows:
        sheet.warnings.append(f"a batch of {spec.global_batch_sequences} rows is more than the {rows} rows there are")
    if isinstance(spec.data, ConversationData) and spec.data.heldout_rows < 20:
        sheet.warnings.append(f"{spec.data.heldout_rows} held-out rows are too few to tell noise from progress")


def _amount(num_bytes: int) -> str:
    value = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
