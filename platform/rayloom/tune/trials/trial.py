"""One trial in its process: the training loop of `train` jobs, with metrics for the search. It does not use Ray."""

from __future__ import annotations

import ctypes
import gc
import math
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from rayloom.artifacts.store import Artifact
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.engine_errors import is_out_of_memory, is_unreachable_store
from rayloom.errors import InputError, InterruptedJobError, RayloomError, ResourceError
from rayloom.evaluate.checks.check import Case
from rayloom.evaluate.checks.registry import CHECKS
from rayloom.models.responders.subject import Subject
from rayloom.models.weight_files import stored_tensors
from rayloom.specs.search.trial_metrics import TrialCheck, check_metrics
from rayloom.train.failures import Cause, first_cause
from rayloom.train.job import TrainJob
from rayloom.train.loop.loop import train
from rayloom.train.loop.run_log import read_log
from rayloom.train.prepare import on_this_node
from rayloom.train.process_group import current_group
from rayloom.train.rollouts.asking import Asker
from rayloom.tune.trials.handover import begin_with, remove

SECONDS_TO_FAIL_TOGETHER = 10.0
"""Time for the other workers to fail too after one failed; after it, they are waiting for it in vain."""

Report = Callable[[dict[str, Any]], None]
"""Receives `measured` at each measurement, and at the end `finished`, `paused`, `failed`, `hindered` or `crashed`.

It raises SystemExit if the trial should stop.
"""


class OtherWorkers(Protocol):
    """The other workers of a trial, which train together with this one."""

    def begin(self, job: TrainJob, parents: Mapping[str, Artifact]) -> None:
        """Starts the training in the other workers; this process starts it itself."""

    def end(self, within_seconds: float | None = None) -> list[BaseException]:
        """Waits for the others and returns their errors. Those still running after `within_seconds` are killed."""


Asking = Callable[[TrainJob, Mapping[str, Artifact]], AbstractContextManager[Asker]]
"""What the first worker of a policy's trial needs for its answers, from the job and its parents."""


@dataclass(frozen=True)
class TrialTask:
    """The work of one process for a trial."""

    trial: int
    job: TrainJob
    """With paths of the driver's node, unless nodes share no disk (`prepare.on_this_node`)."""
    until_step: int | None
    """The step at which to save and pause; None to run to the end."""
    source: Path | WorkCopy | None
    """Another trial's checkpoint to start from, if this one has none yet."""
    is_asked_to_pause: Callable[[], bool]
    """Whether the process should save and pause."""
    checks: tuple[tuple[TrialCheck, Artifact | None], ...] = ()
    """The checks to run on the finished model, each with the artifact of its rows."""
    parents: Mapping[str, Artifact] = field(default_factory=dict)
    """The artifacts that the training job refers to, by dotted path in its spec."""

    def __str__(self) -> str:
        """A short text for Ray Tune's own records, which print its settings."""
        return f"trial {self.trial}"


def run_trial(
    task: TrialTask, report: Report, others: OtherWorkers | None = None, asking: Asking | None = None
) -> None:
    """Trains until the end or a pause. Errors are reported, so that this process can run further trials.

    Raises only if a trial of several workers failed, because they cannot be used again.
    """
    began = time.perf_counter()
    watch = TrialMonitor(task, report, pauses_together=others is not None)
    torch.set_num_threads(task.job.spec.workers.cpus_per_worker)
    _reset_peak_memory()
    is_paused = False
    try:
        job = on_this_node(task.job, task.parents)
        watch.task = replace(task, job=job)
        if task.source is not None:
            begin_with(task.source, job)
            report({"message": "copied", "step": watch.step})
        if others is not None:
            others.begin(task.job, task.parents)
        with nullcontext() if asking is None else asking(job, task.parents) as asker:
            train(job, current_group(_device(job)), watch.tell, watch.should_pause, asker=asker, began=began)
        _end(others)
    except InterruptedJobError:
        _end(others)
        if watch.is_stopped:
            remove(watch.task.job, ("checkpoints",))
            raise SystemExit(0) from None
        is_paused = True
        report({"message": "paused", "step": watch.step})
    except Exception as error:
        # Any error of a trial is its result.
        if others is None:
            report({"message": end_of(error), "step": watch.step, "reason": reason_of(error)})
        else:
            report({"step": watch.step, **_failure_together(error, others)})
            raise
    else:
        report({"message": "finished", "step": watch.step, "metrics": watch.result()})
    finally:
        job = watch.task.job
        if job.copy is not None and job.log.exists():
            job.copy.put(job.log.name)
            if not is_paused:  # what is needed of it is in the store
                shutil.rmtree(job.work)
        _give_memory_back()


def _failure_together(error: Exception, others: OtherWorkers) -> dict[str, Any]:
    """The report of the first failure among all workers; if one died, the trial can continue from its checkpoint."""
    failure = first_cause([error, *others.end(SECONDS_TO_FAIL_TOGETHER)])
    if failure.cause is Cause.DEATH:
        return {"message": "crashed", "reason": "one of its workers died"}
    return {"message": end_of(failure.error), "reason": reason_of(failure.error)}


def _end(others: OtherWorkers | None) -> None:
    """Waits for the other workers; raises the error of one that failed."""
    for error in others.end() if others is not None else ():
        raise error


def end_of(error: BaseException) -> Literal["failed", "hindered"]:
    """`failed` if the trial's values can have caused the error, `hindered` if something outside the trial did.

    `failed`: a diverged loss, too little memory for the model or batch, refused values. `hindered`: errors of the
    machine, disk or store, and missing files.
    """
    is_missing_file = isinstance(error, InputError) and bool(error.where) and not Path(error.where).exists()
    is_outside = isinstance(error, OSError | ImportError | ResourceError) or is_missing_file
    is_outside |= is_unreachable_store(error)
    return "hindered" if is_outside else "failed"


def reason_of(error: BaseException) -> str:
    """The error that ended a trial, in one line."""
    if isinstance(error, RayloomError):
        return str(error)
    first = str(error).strip().partition("\n")[0]
    name = "out of memory" if is_out_of_memory(error) else type(error).__name__
    return f"{name}: {first}" if first else name


@dataclass
class TrialMonitor:
    """Turns the events of the training loop into metrics, and tells the loop when to pause."""

    task: TrialTask
    report: Report
    pauses_together: bool = False
    """Whether there are other workers: then a stopped trial takes one more step, in which all of them learn of it."""
    is_stopped: bool = False
    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    best_step: int | None = None
    losses: list[float] = field(default_factory=list)
    """Training losses since the last measurement."""
    heldout: dict[int, dict[str, float]] = field(default_factory=dict)

    def should_pause(self) -> bool:
        """Whether the loop should do the next step, save and end; it asks before each step."""
        return self.is_stopped or self.step + 1 == self.task.until_step or self.task.is_asked_to_pause()

    def tell(self, event: dict[str, Any]) -> None:
        self.step = event.get("step", self.step)
        if event["event"] == "resumed":
            for earlier in read_log(self.task.job.log):
                self._take_in(earlier)
        self._take_in(event)
        if event["event"] == "heldout" and event["name"] == self._deciding and not self.is_stopped:
            self._measured()

    def _measured(self) -> None:
        try:
            self.report({"message": "measured", "step": self.step, "metrics": self.heldout[self.step]})
        except SystemExit:
            if not self.pauses_together:
                raise
            self.is_stopped = True

    @property
    def _deciding(self) -> str:
        return next(iter(self.task.job.heldout))

    def _take_in(self, event: dict[str, Any]) -> None:
        if event["event"] == "step":
            self.losses.append(event["loss"])
            self.seconds += event["seconds"]
            self.tokens += event["tokens"]
        elif event["event"] == "heldout" and event["name"] == self._deciding:
            self.heldout[event["step"]] = self._metrics(event)
            self.losses = []
        elif event["event"] == "finished":
            self.best_step = event["best_step"]

    def _metrics(self, event: dict[str, Any]) -> dict[str, float]:
        found = {
            "heldout_loss": event["loss"],
            "train_loss": math.fsum(self.losses) / len(self.losses) if self.losses else math.nan,
            "tokens_per_second": self.tokens / self.seconds if self.seconds else math.nan,
            "peak_memory_bytes": float(_peak_memory_bytes()),
            "seconds": round(self.seconds, 4),
        }
        found |= {f"heldout_{name}": event[name] for name in ("perplexity", "accuracy", "score") if name in event}
        return {name: value for name, value in found.items() if not math.isnan(value) or name == "heldout_loss"}

    def result(self) -> dict[str, float]:
        """The metrics of the finished model, at its best step if early stopping keeps that one."""
        last = self.heldout[max(self.heldout)]
        kept = last if self.best_step is None else last | _quality(self.heldout[self.best_step])
        return kept | {"trainable_parameters": float(num_parameters(self.task.job.out))} | _checked(self.task)


def _checked(task: TrialTask) -> dict[str, float]:
    """The metrics of the task's checks on the finished model."""
    if not task.checks:
        return {}
    job = task.job
    is_adapter = job.base is not None and (job.out / "adapter_config.json").exists()
    subject = Subject("model", f"trial {task.trial}", job.base if is_adapter and job.base else job.out)
    if is_adapter:
        subject = replace(subject, adapter=job.out)
    found: dict[str, float] = {}
    for check, rows_of in task.checks:
        case = Case(check, subject, rows_of, job.spec.micro_batch_sequences)
        metrics = CHECKS[check.type].measure(case).metrics
        found |= {name: float(metrics[name.rpartition(".")[2]]) for name in check_metrics([check], job.spec.task)}
    subject.release()
    return found


def whole_result(job: TrainJob, parents: Mapping[str, Artifact], step: int, asking: Asking | None = None) -> None:
    """Writes the model of a trial that was cut off at `step`, from its checkpoint there, to `job.out`."""
    job = on_this_node(job, parents)
    torch.set_num_threads(job.spec.workers.cpus_per_worker)
    ended = replace(job, num_rows=step * job.spec.rows_per_step)
    with nullcontext() if asking is None else asking(job, parents) as asker:
        train(ended, current_group(_device(job)), lambda _: None, asker=asker)


def num_parameters(folder: Path) -> int:
    """Number of parameters in the safetensors files of a folder, from their headers."""
    return sum(tensor.num_values for tensor in stored_tensors(folder).values())


def _quality(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith("heldout_")}


def _device(job: TrainJob) -> torch.device:
    return torch.device("cuda" if job.spec.workers.gpus_per_worker and torch.cuda.is_available() else "cpu")


def _give_memory_back() -> None:
    """Frees memory, so that the next trial of this process starts, and is measured, like the first."""
    gc.collect()
    # glibc keeps freed memory: 0.7 GB after a language model's trial.
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _reset_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif (switch := Path("/proc/self/clear_refs")).exists():
        switch.write_text("5")  # proc(5): resets the peak to the current resident size


def _peak_memory_bytes() -> int:
    """Peak memory of the device, or of this process on a CPU; 0 if the system does not say."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
