"""What the plan of a training job finds out about its model and rows, on whichever machine it runs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError, RayloomError
from rayloom.models.loading import missing_word_head
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.pretrained import AutoConfig
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.training_data import ConversationData
from rayloom.text.conversations.row_sample import estimated
from rayloom.train.job import TrainJob
from rayloom.train.job_rows import SHARE_NAME, row_counts
from rayloom.train.objectives.recorded import LABEL_BYTES
from rayloom.train.planning.findings import Findings, amount
from rayloom.train.planning.fleet import add_fleet
from rayloom.train.planning.preflight import add_method, add_rows
from rayloom.train.planning.rollouts import add_rollouts
from rayloom.train.precision import computing_precision
from rayloom.train.prepare import job_of
from rayloom.train.sizes.disk import disk_bytes
from rayloom.train.sizes.estimates import checkpoint_bytes, flops_per_token, memory_per_device
from rayloom.train.sizes.model_size import ModelSize, size_of_base, size_of_job, with_teachers_size
from rayloom.train.stored_rows import AnyRows, stored_rows
from rayloom.train.streaming.lane_order import SHARDS_A_LANE, SHARDS_HELD_A_LANE, lane_order
from rayloom.train.streaming.streamed_rows import StreamedRows
from rayloom.train.weights.kernels import check_kernels
from rayloom.train.weights.layout import check_layout

USUAL_METHODS = {
    "all weights": {"type": "none"},
    "lora": {"type": "lora"},
    "lora on nf4": {"type": "lora", "quantised_base": "nf4"},
}
MAX_EPOCHS_WORTHWHILE = 4
"""More epochs than this gain little (Muennighoff et al. 2023)."""
TOKENS_PER_PARAMETER = 20
"""With fewer training tokens, a smaller model reaches the same loss with less compute (Hoffmann et al. 2022)."""


def findings_of(spec: TrainSpec, parents: Mapping[str, Artifact], store: Store, *, may_sample: bool) -> Findings:
    """Facts in reading order, a problem for everything that would make the run fail, and warnings.

    `may_sample`: of many conversations, some are looked at; the plan says so.
    """
    sheet = PlanSheet()
    with tempfile.TemporaryDirectory() as folder:
        try:
            work = Path(folder)
            job = job_of(spec, parents, work, work / "result", store=store, may_sample=may_sample)
            size = size_of_job(job)
            if job.base is not None:
                config = AutoConfig.from_pretrained(job.base)
                check_layout(spec, config)
                check_kernels(spec, config)
        except RayloomError as error:
            return Findings(PlanSheet(problems=[str(error)]))
        counts = row_counts(work)
        share = counts.get(SHARE_NAME, 1.0)
        if isinstance(spec.data, ConversationData) and share < 1:
            counts = estimated(counts, share, spec.data.heldout_rows)
            sheet.add(
                "looked at", f"{share:.2%} of the rows: what follows is estimated by them (--all looks at every row)"
            )
        _add_model(sheet, job, size)
        _add_teacher(sheet, job, size)
        _add_precision(sheet, spec)
        memory = memory_per_device(spec, size)
        _add_memory(sheet, spec, size)
        _add_memory_by_method(sheet, job)
        sheet.add("disk", f"{amount(disk_bytes(spec, size))} at most while it runs")
        data = _DataSize.of(job, share)
        _add_data(sheet, job, data)
        add_fleet(sheet, spec, size, job.num_sequences * spec.sequence_length_tokens)
        add_rows(sheet, job, counts)
        add_rollouts(sheet, job, size, parents)
        add_method(sheet, spec, size, counts)
        if spec.architecture is not None:  # a base's shape cannot be changed
            _warn_about_shape(sheet, size)
        _warn_about_data(sheet, job, data, size)
    return Findings(sheet, size, spec.workers.num_workers * memory.total)


@dataclass(frozen=True)
class _DataSize:
    """The packed rows of the first data set as they lie there, how many there are of all; and what is held out."""

    train: AnyRows
    rows: int
    tokens: int
    heldout: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, job: TrainJob, share: float) -> _DataSize:
        """`share`: how much of the data was looked at."""
        train = stored_rows(job.spec, job.train[0])
        heldout = {name: stored_rows(job.spec, folder) for name, folder in job.heldout.items()}
        sizes = {name: (round(len(rows) / share), round(rows.num_tokens / share)) for name, rows in heldout.items()}
        return cls(train, round(len(train) / share), round(train.num_tokens / share), sizes)


def _add_model(sheet: PlanSheet, job: TrainJob, size: ModelSize) -> None:
    spec = job.spec
    if spec.task is None and spec.objective_in_use.type == "masked" and job.base is not None:
        missing = missing_word_head(job.base)
        if missing is not None:
            sheet.warnings.append(f"the base has no head that predicts masked words ({missing}): it starts at random")
    sheet.add("parameters", size.parameters)
    sheet.add("trained parameters", f"{size.trained:,} ({size.trained / size.parameters:.2%})")
    per_token = flops_per_token(size, spec.sequence_length_tokens, spec.objective_in_use)
    sheet.add("arithmetic", f"{per_token / 1e6:,.1f} MFLOP a token")


def _add_teacher(sheet: PlanSheet, job: TrainJob, size: ModelSize) -> None:
    asked = job.spec.teacher_in_use
    if asked is not None and job.teacher is not None and size.of_teacher is not None:
        form = asked.divergence.type.replace("_", " ")
        count = f"{size.of_teacher.parameters:,} parameters"
        sheet.add("teacher", f"{job.teacher.artifact_id}, {count}, {form}, weight {asked.weight:g}")
    if asked is not None and asked.recorded is not None and job.teacher is not None:
        most = sum(stored_rows(job.spec, folder).num_tokens for folder in job.records)
        size_bytes = most * asked.recorded.top_k * LABEL_BYTES
        sheet.add("teacher", f"{job.teacher.artifact_id}, recorded once: {amount(size_bytes)} at most in the store")


def _add_precision(sheet: PlanSheet, spec: TrainSpec) -> None:
    precision = computing_precision(spec, spec.workers.gpus_per_worker > 0)
    if precision != spec.precision and spec.hardware is None:
        sheet.add("precision", f"{precision} on a processor like this one, which cannot multiply {spec.precision}")
    if spec.float8 is not None:
        sheet.add(
            "float8",
            f"products of the layers' weights, {spec.float8}; all else in {spec.precision}, and as much memory",
        )
    if spec.float8 is not None and not spec.compile:
        sheet.warnings.append("float8 without compile scales tensors one operation after the other: set compile: true")


def _add_memory(sheet: PlanSheet, spec: TrainSpec, size: ModelSize) -> None:
    memory = memory_per_device(spec, size)
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimiser": memory.optimizer,
        "activations": memory.activations,
        "loss": memory.loss,
    } | ({"reference": memory.reference} if memory.reference else {})
    parts_text = ", ".join(f"{name} {amount(value)}" for name, value in parts.items())
    sheet.add("memory per device", f"{amount(memory.total)} ({parts_text}; ZeRO stage {spec.sharding.zero_stage})")
    sheet.add("checkpoint", f"{amount(checkpoint_bytes(size))} every {spec.checkpoints.every_steps:,} steps")


def _add_memory_by_method(sheet: PlanSheet, job: TrainJob) -> None:
    """Adds the memory that usual methods need for this base, to choose one that fits."""
    if job.base is None:
        return
    methods = []
    for name, adapter in USUAL_METHODS.items():
        with contextlib.suppress(ValidationError, InputError):  # a method that does not fit this job or this model
            other = TrainSpec.model_validate(job.spec.model_dump() | {"adapter": adapter})
            size = with_teachers_size(size_of_base(other, job.base), other, job.teacher)
            methods.append(f"{name} {amount(memory_per_device(other, size).total)}")
    sheet.add("memory by method", ", ".join(methods))


def _add_data(sheet: PlanSheet, job: TrainJob, data: _DataSize) -> None:
    spec = job.spec
    sheet.add("rows", f"{data.rows:,} of {spec.sequence_length_tokens:,} tokens ({data.tokens:,} tokens)")
    if isinstance(data.train, StreamedRows):
        _add_streaming(sheet, data.train, spec)
    for name, (rows, tokens) in data.heldout.items():
        sheet.add(name, f"{rows:,} rows ({tokens:,} tokens)")
    together = spec.sharding.together
    workers = f"{spec.num_copies} workers" if together == 1 else f"{spec.num_copies} groups of {together} workers"
    sheet.add(
        "batch",
        f"{spec.global_batch_tokens:,} tokens: {workers} × {spec.accumulation_steps} accumulated × "
        f"{spec.micro_batch_sequences} rows",
    )
    epochs = job.num_rows / data.rows
    sheet.add("steps", f"{job.num_steps:,} ({epochs:,.2f} epochs)")
    sheet.add("tokens", f"{job.num_sequences * spec.sequence_length_tokens:,} at most")


def _add_streaming(sheet: PlanSheet, rows: StreamedRows, spec: TrainSpec) -> None:
    num_shards, workers = len(rows.rows_of_shards), spec.num_copies
    order = lane_order(rows.rows_of_shards, spec.global_batch_sequences, spec.micro_batch_sequences, spec.seed)
    mine = order.lanes_of_worker(workers)
    held = min(num_shards, SHARDS_HELD_A_LANE * mine)
    size = amount(held * rows.num_bytes // max(1, num_shards))
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


def _warn_about_data(sheet: PlanSheet, job: TrainJob, data: _DataSize, size: ModelSize) -> None:
    spec, rows = job.spec, data.rows
    epochs = job.num_rows / rows
    is_pretraining = spec.architecture is not None
    if is_pretraining and epochs > MAX_EPOCHS_WORTHWHILE:
        sheet.warnings.append(
            f"{epochs:.1f} epochs: repeating text more than {MAX_EPOCHS_WORTHWHILE} times gains little"
        )
    tokens = job.num_sequences * spec.sequence_length_tokens
    if is_pretraining and tokens < TOKENS_PER_PARAMETER * size.parameters:
        sheet.warnings.append(
            f"{tokens / size.parameters:.2g} tokens a parameter; a smaller model learns as much from so little text "
            f"(about {TOKENS_PER_PARAMETER} is balanced)"
        )
    if spec.rows_per_step > rows:
        sheet.warnings.append(f"a batch of {spec.rows_per_step} rows is more than the {rows} rows there are")
    if isinstance(spec.data, ConversationData) and spec.data.heldout_rows < 20:
        sheet.warnings.append(f"{spec.data.heldout_rows} held-out rows are too few to tell noise from progress")
