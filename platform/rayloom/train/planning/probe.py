"""`rayloom plan --probe`: runs a few micro-batches of the job on this machine and estimates the whole run from them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.score.parallel.axis import Axis
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.endurance import Sharding
from rayloom.train.engines.engine import engine_for
from rayloom.train.loop.batch_feed import micro_batches
from rayloom.train.loop.run_state import engine_model, rows_of
from rayloom.train.planning.fleet import duration
from rayloom.train.precision import DTYPES, computing_precision
from rayloom.train.prepare import job_of
from rayloom.train.process_group import Group
from rayloom.train.sizes.estimates import flops_per_token
from rayloom.train.sizes.model_size import size_of_job
from rayloom.train.sizes.peaks import matrix_peak, peak_memory_bytes

NUM_STEPS = 4


def probe(spec: TrainSpec, parents: Mapping[str, Artifact], job_directory: Path) -> PlanSheet:  # noqa: ARG001
    """Speed, model FLOPs utilisation, peak memory and estimated time, measured on one device without sharding."""
    sheet = PlanSheet()
    if spec.preference is not None:
        sheet.add("probe", "not for preferences, which need another model's answers first")
        return sheet
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    small = spec.model_copy(
        update={"sharding": Sharding(), "global_batch_tokens": spec.micro_batch_sequences * spec.sequence_length_tokens}
    )
    if spec.policy is not None:
        raise InputError("A probe measures training on rows, and a policy's rows are written by engines")
    with tempfile.TemporaryDirectory() as folder:
        job = job_of(spec, parents, Path(folder), Path(folder) / "result")
        rows = rows_of(job, small)
        group = Group(0, 1, device)
        model, loss, _ = engine_model(replace(job, spec=small), rows.objective, device)
        engine = engine_for(small, loss, group)
        model.train()
        tokens, seconds = 0, 0.0
        for step in range(NUM_STEPS):
            started = time.perf_counter()
            (batch,) = micro_batches(rows, step, small.micro_batch_sequences, Axis())
            engine.backward(engine.loss(batch.to(device)) / max(1, batch.num_labels), is_last=True)
            engine.step(0.0)  # synchronises with the device, to read the gradient norm
            if step:  # the first step also includes initialisation
                seconds += time.perf_counter() - started
                tokens += batch.num_tokens
        size = size_of_job(job)
    speed = tokens / seconds
    peak = matrix_peak(device, DTYPES[computing_precision(small, device.type == "cuda")])
    flops = flops_per_token(size, spec.sequence_length_tokens, spec.objective_in_use)
    workers = spec.workers.num_workers
    total = job.num_rows * spec.sequence_length_tokens
    sheet.add("probe: device", _name_of(device))
    sheet.add(
        "probe: speed", f"{speed:,.0f} tokens/s, {speed * flops / peak:.1%} of a measured {peak / 1e12:,.3g} TFLOP/s"
    )
    sheet.add("probe: memory", f"{peak_memory_bytes(device) / 1e9:,.3g} GB at most")
    sheet.add("probe: time", f"about {duration(total / (speed * workers))} on {workers} such devices, if none waits")
    return sheet


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
