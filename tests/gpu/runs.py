"""Training runs of the loop that ships, on models with random weights made on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from place import Place
from timed_steps import WARM_UP_STEPS, StepClock
from torch import nn

from rayloom.specs.train import TrainSpec
from rayloom.text.packed.shards import ShardWriter
from rayloom.train.job import TrainJob, rows_of_run
from rayloom.train.loop.batch_feed import RunRows
from rayloom.train.loop.loop import train
from rayloom.train.objectives.objective import NextToken
from rayloom.train.process_group import Group
from rayloom.train.sizes.estimates import flops_per_token, memory_per_device
from rayloom.train.sizes.model_size import ModelSize, size_of_model
from rayloom.train.sizes.peaks import data_sheet_peak, matrix_peak

NUM_ROWS = 64


@dataclass(frozen=True)
class Figures:
    """What the steps of a run gave."""

    losses: list[float]
    tokens_per_second: float
    peak_bytes: int
    size: ModelSize

    def described(self, spec: TrainSpec, place: Place) -> dict[str, Any]:
        """Speed, utilisation, and memory beside `plan`'s."""
        found: dict[str, Any] = {
            "tokens_per_second": round(self.tokens_per_second, 1),
            "last_loss": round(self.losses[-1], 4),
            "parameters": self.size.parameters,
        }
        dtype = torch.bfloat16 if spec.precision == "bf16" else torch.float32
        flops = self.tokens_per_second * flops_per_token(self.size, spec.sequence_length_tokens)
        sheet = data_sheet_peak(place.device, dtype)
        found["utilisation"] = round(flops / (sheet or matrix_peak(place.device, dtype)), 4)
        if place.is_gpu:
            planned = memory_per_device(spec, self.size).total
            found["peak_gb"], found["planned_gb"] = round(self.peak_bytes / 1e9, 2), round(planned / 1e9, 2)
            found["peak_to_plan"] = round(self.peak_bytes / planned, 3)
        return found


class EnoughError(Exception):
    """The run has shown what it should; its checkpoint and result are not wanted."""


def spec_of(place: Place, **facts: Any) -> TrainSpec:
    """A spec for rows of random words; `facts` are its fields."""
    given = {
        "kind": "train",
        "name": "check",
        "data": {"type": "corpus", "corpus": "artifact:random"},
        "num_steps": 1000,
        "learning_rate": 1e-4,
        "schedule": {"type": "constant"},
        "workers": {"gpus_per_worker": 1 if place.is_gpu else 0},
        "checkpoints": {"every_steps": 1_000_000},
    }
    return TrainSpec.model_validate(given | facts)


def write_rows(folder: Path, vocabulary: int, length: int, document_tokens: int | None = None) -> None:
    """Rows of documents, with words as rare as real ones, and a tokenizer for them."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(vocabulary)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0").save_pretrained(folder / "tokenizer")
    random, weights = np.random.default_rng(0), 1 / np.arange(1, vocabulary + 1)
    size = document_tokens or length
    for name, count in (("train", NUM_ROWS), ("heldout", 1)):
        writer = ShardWriter(folder / name, vocabulary, "random", sequence_length_tokens=length)
        for _ in range(count):
            writer.start_row()
            for _ in range(length // size):
                writer.add(random.choice(vocabulary, size, p=weights / weights.sum()))
        writer.close()


def job_of(spec: TrainSpec, folder: Path, work: Path) -> TrainJob:
    work.mkdir(parents=True, exist_ok=True)
    return TrainJob(
        spec=spec,
        base=folder if spec.base is not None else None,
        tokenizer=folder / "tokenizer",
        train=(folder / "train",),
        shares=(1.0,),
        heldout={"heldout": folder / "heldout"},
        work=work,
        out=work / "out",
        num_rows=rows_of_run(spec, [1], [1.0]),
        micro_batch_sequences=spec.micro_batch_sequences,
    )


def run(
    place: Place, spec: TrainSpec, folder: Path, num_steps: int, model: Callable[[], nn.Module] | None = None
) -> Figures:
    """The figures of the first steps of the run. `model`: makes the base on the device; else the spec's architecture.

    Nothing is saved: the run ends in the middle.
    """
    clock, losses, sizes = StepClock(place.device), [], []

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "heldout":
            clock.tick()
        if event["event"] == "step":
            clock.tick()
            losses.append(event["loss"])
            if len(losses) == num_steps:
                raise EnoughError

    place.start_peak()
    job = job_of(spec, folder, folder / f"work-{len(list(folder.glob('work-*')))}")
    with _built_by(model, sizes), suppress(EnoughError):
        train(job, Group(0, 1, place.device), tell)
    tokens = spec.global_batch_tokens * (num_steps - WARM_UP_STEPS)
    return Figures(losses, tokens / clock.counted_seconds, place.peak_bytes(), sizes[0])


@contextmanager
def _built_by(model: Callable[[], nn.Module] | None, sizes: list[ModelSize]) -> Iterator[None]:
    """In the block, the loop's model is this one, and its size is noted."""
    from rayloom.train.loop import run_state

    own = run_state.build_model

    def build(*given: Any, **named: Any) -> nn.Module:
        made = own(*given, **named) if model is None else model()
        sizes.append(size_of_model(made))
        return made

    with patch.object(run_state, "build_model", build):
        yield


def batches_of(spec: TrainSpec, folder: Path, place: Place, step: int) -> Iterator[dict[str, torch.Tensor]]:
    """The same micro-batches as the loop's, for a loop written by hand; rows of one document each."""
    objective = NextToken(spec.sequence_length_tokens)
    rows = RunRows(objective, [objective.rows(folder / "train")], [1.0], 0, 10**9, spec.global_batch_sequences)
    places, micro = rows.of_step(step), spec.micro_batch_sequences
    for begin in range(0, len(places), micro):
        tokens = rows.batch(places[begin : begin + micro], begin).to(place.device).tokens
        yield {"input_ids": tokens, "labels": tokens}
