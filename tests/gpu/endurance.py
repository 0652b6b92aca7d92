"""A run that is killed and goes on with the same losses, and a run on several workers with the losses of one."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from place import Place, SkippedError, is_installed
from runs import job_of, spec_of, write_rows

from rayloom.train.loop.run_log import read_log

VOCABULARY, LENGTH = 256, 64
STEPS, KILLED_AFTER = 14, 7
MOST_NATS = 2e-4
"""Between one worker and several: sums in another order, in fp32."""


def resumed(place: Place) -> dict[str, Any]:
    write_rows(place.folder, VOCABULARY, LENGTH, document_tokens=LENGTH // 2)
    whole, killed = place.folder / "whole", place.folder / "killed"
    process, log = _alone(killed), killed / "metrics.jsonl"
    uninterrupted = _alone(whole)
    while process.is_alive() and _steps_in(log) < KILLED_AFTER:
        time.sleep(0.002)
    if not process.is_alive():
        raise AssertionError("the run ended before it could be killed")
    process.kill()
    process.join()
    at_step = _steps_in(log)
    _alone(killed).join()
    uninterrupted.join()
    losses, again = _losses(whole), _losses(killed)
    if len(losses) != STEPS or losses != again:
        raise AssertionError(f"losses without interruption {losses}, and killed after step {at_step}: {again}")
    if not any(event["event"] == "resumed" for event in read_log(log)):
        raise AssertionError("it began anew instead of going on")
    return {"killed_after_step": at_step, "steps": STEPS, "largest_loss_difference": 0.0}


def several_workers(place: Place) -> dict[str, Any]:
    """Plain data parallelism, and ZeRO where DeepSpeed is installed, against one worker."""
    num_gpus = torch.cuda.device_count()
    num_workers = next((count for count in (8, 4, 2) if count <= num_gpus), 1) if place.is_gpu else 2
    if num_workers < 2:
        raise SkippedError("one GPU only")
    write_rows(place.folder, VOCABULARY, LENGTH, document_tokens=LENGTH // 2)
    _alone(place.folder / "one").join()
    one = _losses(place.folder / "one")
    found: dict[str, Any] = {"num_workers": num_workers, "largest_loss_difference": {}}
    for stage in (0, 1, 3) if is_installed("deepspeed") and place.is_gpu else (0,):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        folder = place.folder / f"zero-{stage}"
        given = (num_workers, port, str(folder), stage)
        mp.start_processes(_worker, args=given, nprocs=num_workers, start_method="forkserver")
        losses = _losses(folder)
        apart = max(abs(ours - alone) for ours, alone in zip(losses, one, strict=True))
        if not apart <= MOST_NATS:
            raise AssertionError(f"ZeRO stage {stage}: losses {losses} on {num_workers} workers, {one} on one")
        found["largest_loss_difference"][f"zero_{stage}"] = apart
    return found


def _alone(work: Path) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers"])
    process = context.Process(target=_train, args=(work, 0, 1))
    process.start()
    return process


def _worker(rank: int, num_workers: int, port: int, work: str, stage: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(num_workers))
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    _train(Path(work), stage, num_workers)


def _train(work: Path, stage: int, num_workers: int) -> None:
    from rayloom.train.__main__ import join
    from rayloom.train.loop.loop import train

    # Kernels that add in any order would differ from run to run.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True, warn_only=True)
    place = Place.here(work, is_small=True)
    spec = spec_of(
        place,
        architecture={"type": "decoder", "num_layers": 2, "hidden_size": 64, "num_heads": 4, "max_positions": LENGTH},
        sequence_length_tokens=LENGTH,
        micro_batch_sequences=2,
        global_batch_tokens=16 * LENGTH,
        num_steps=STEPS,
        precision="fp32",
        checkpoints={"every_steps": 3},
        sharding={"zero_stage": stage},
        workers={"num_workers": num_workers, "gpus_per_worker": 1 if place.is_gpu else 0},
    )
    train(job_of(spec, work.parent, work), join(), lambda _: None)
    if num_workers > 1:
        torch.distributed.destroy_process_group()


def _steps_in(log: Path) -> int:
    return sum(event["event"] == "step" for event in read_log(log))


def _losses(work: Path) -> list[float]:
    return [event["loss"] for event in read_log(work / "metrics.jsonl") if event["event"] == "step"]
