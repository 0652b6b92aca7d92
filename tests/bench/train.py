"""The training loop measured: `make bench-train`, or on a GPU machine without Ray: this file with --device cuda.

The loop that ships, a bare PyTorch loop and Hugging Face's Trainer take turns in one process, in another order each
round, on the same fresh weights, the same batches and the same arithmetic: the benchmark fails where their losses
differ. In bf16 each has it as it is usual there: ours with bf16 weights beside fp32 masters, the others by autocast. A
step's time is that from its beginning to that of the next, with all that its loop does in between; the bare loop and
Trainer get their batches ready-made. What checkpoints cost is measured on the same model, runs with and without them in
turn. Prints, last, one JSON object. With --save, also writes it to results/.

On a GPU: tokens a second of a decoder of about 1B parameters in bf16, as a share of the measured matrix-multiply peak.
Under torchrun every process joins in.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from hardware import hardware
from timed_steps import WARM_UP_STEPS, StepClock, Timed, check_same, ratio
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "platform"))

from rayloom.score import document_attention
from rayloom.score.batches import NO_LABEL
from rayloom.specs.train import TrainSpec
from rayloom.text.packed.shards import ShardWriter
from rayloom.train.job import TrainJob, rows_of_run
from rayloom.train.loop.batch_feed import RunRows
from rayloom.train.loop.loop import train
from rayloom.train.objectives.objective import NextToken
from rayloom.train.process_group import Group, current_group
from rayloom.train.sizes.estimates import flops_per_token
from rayloom.train.sizes.model_size import size_of_job
from rayloom.train.sizes.peaks import matrix_peak
from rayloom.train.weights.architectures import fresh

RESULTS = Path(__file__).parent / "results"
SAME_LOSS_NATS = {"fp32": 1e-3, "bf16": 2e-2}
"""How far losses of one step may lie apart: sums in another order, and in bf16 roundings in other places."""
LEARNING_RATE = 3e-4
CHECKPOINT_EVERY_STEPS = 4
MINUTE_SECONDS = 60.0
SIDE_ROUNDS = 2
"""Of what stands beside the comparison: checkpoints, and DeepSpeed's own cost."""
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {
        "architecture": {"type": "decoder", "num_layers": 6, "hidden_size": 384, "max_positions": 512},
        "vocabulary": 8192,
        "sequence_length_tokens": 256,
        "micro_batch_sequences": 4,
        "global_batch_sequences": 8,
        "steps": 8,
        "rounds": 3,
    },
    "cuda": {
        "architecture": {
            "type": "decoder", "num_layers": 20, "hidden_size": 2048, "num_heads": 16, "num_key_value_heads": 8,
            "max_positions": 4096,
        },
        "vocabulary": 32768,
        "sequence_length_tokens": 4096,
        "micro_batch_sequences": 4,
        "global_batch_sequences": 16,
        "steps": 12,
        "rounds": 2,
    },
}  # fmt: skip
PACKED = {
    "sequence_length_tokens": 2048, "document_tokens": 256, "micro_batch_sequences": 1, "global_batch_sequences": 2,
    "architecture": PRESETS["cpu"]["architecture"] | {"max_positions": 2048},
}  # fmt: skip
"""Rows of eight documents each."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the preset")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    preset = PRESETS[options.device] | dict(_assignment(text) for text in options.set)
    preset |= {"rounds": options.rounds} if options.rounds else {}
    if options.device == "cuda" and "RANK" in os.environ:
        torch.distributed.init_process_group("nccl")
    os.environ.setdefault("DS_ACCELERATOR", options.device)
    place = torch.device(options.device, int(os.environ.get("LOCAL_RANK", 0)) if options.device == "cuda" else None)
    if options.device == "cuda":
        torch.cuda.set_device(place)
    with tempfile.TemporaryDirectory(prefix="rayloom-bench-") as folder:
        bench = Bench(Path(folder), preset, current_group(place))
        found = bench.on_gpu() if options.device == "cuda" else bench.on_cpu()
    if bench.group.is_first:
        _report(found, options.save)


def _assignment(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    return key, json.loads(value)


class Bench:
    """One model and one set of rows, and the loops that train it."""

    def __init__(self, folder: Path, preset: dict[str, Any], group: Group) -> None:
        self.folder, self.preset, self.group = folder, preset, group
        self.num_runs = 0
        if group.is_first:
            self._write_rows()
        group.wait_for_all()

    @property
    def is_alone(self) -> bool:
        """The bare loop knows of one device only."""
        return self.group.num_workers == 1

    @functools.cached_property
    def precisions(self) -> tuple[str, ...]:
        """fp32, and bf16 if the processor multiplies it: those that convert every number take minutes for a step."""
        peaks = [matrix_peak(self.group.device, dtype) for dtype in (torch.float32, torch.bfloat16)]
        return ("fp32", "bf16") if peaks[1] > peaks[0] / 4 else ("fp32",)

    # -- what is measured ------------------------------------------------------------------------------------------

    def on_cpu(self) -> dict[str, Any]:
        found: dict[str, Any] = {"threads": torch.get_num_threads(), "model_parameters": self.size().parameters}
        for precision in self.precisions:
            found[precision] = self.compared(precision)
            print(f"{precision}: {json.dumps(found[precision])}", flush=True)
        keys = ("tokens_per_second", "ratio_vs_bare", "ratio_vs_hf_trainer", "data_wait_fraction")
        found["packed_ratio_vs_masks"] = Bench(self.folder / "packed", self.preset | PACKED, self.group).packed()
        found |= {**self.checkpoints(), "zero_2_ratio_vs_bare": self.deepspeeds_own_cost()}
        return {**{key: found["fp32"][key] for key in keys}, **found}

    def compared(self, precision: str) -> dict[str, Any]:
        """Rounds of all loops, each round in another order."""
        loops = {"ours": self.ours, "bare": self.bare, "hf_trainer": self.hf_trainer}
        rounds: list[dict[str, Timed]] = []
        for number in range(self.preset["rounds"]):
            order = [*loops][number % len(loops) :] + [*loops][: number % len(loops)]
            rounds.append({name: loops[name](precision) for name in order})
            check_same(rounds[-1], SAME_LOSS_NATS[precision])
        speeds = {name: [taken[name].tokens_per_second for taken in rounds] for name in loops}
        return {
            "tokens_per_second": round(statistics.median(speeds["ours"]), 1),
            "ratio_vs_bare": ratio(speeds["ours"], speeds["bare"]),
            "ratio_vs_hf_trainer": ratio(speeds["ours"], speeds["hf_trainer"]),
            "data_wait_fraction": round(statistics.median(taken["ours"].data_wait_fraction for taken in rounds), 5),
            "losses": {name: [round(loss, 5) for loss in taken.losses] for name, taken in rounds[-1].items()},
            "rounds": {name: [round(speed, 1) for speed in of_loop] for name, of_loop in speeds.items()},
        }

    def on_gpu(self) -> dict[str, Any]:
        peak = matrix_peak(self.group.device, torch.bfloat16)
        runs = [self.ours("bf16") for _ in range(self.preset["rounds"])]
        speed = statistics.median(run.tokens_per_second for run in runs)
        flops = flops_per_token(self.size(), self.preset["sequence_length_tokens"])
        bare = [self.bare("bf16").tokens_per_second for _ in range(self.preset["rounds"])] if self.is_alone else []
        return {
            "tokens_per_second": round(speed, 1),
            **({"ratio_vs_bare": round(speed / statistics.median(bare), 4)} if bare else {}),
            "data_wait_fraction": runs[-1].data_wait_fraction,
            "model_parameters": self.size().parameters,
            "measured_peak_tflops": round(peak / 1e12, 1),
            "model_flops_utilisation": round(speed * flops / (peak * self.group.num_workers), 4),
            "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        }

    def checkpoints(self) -> dict[str, Any]:
        """What a checkpoint costs: how long training stands still, and how much longer everything takes with them."""
        steps = 4 * CHECKPOINT_EVERY_STEPS - 1  # so that the last checkpoint is written while steps still count
        extra, stalls = [], []
        for _ in range(SIDE_ROUNDS):
            without = self.ours(self.precisions[-1], steps=steps)
            with_them = self.ours(self.precisions[-1], steps=steps, every=CHECKPOINT_EVERY_STEPS)
            num_checkpoints = steps // CHECKPOINT_EVERY_STEPS
            extra.append((with_them.seconds - without.seconds) / num_checkpoints)
            stalls.append(with_them.stall_seconds / num_checkpoints)
        return {
            "checkpoint_stall_seconds": round(statistics.median(stalls), 4),
            "checkpoint_seconds_each": round(statistics.median(extra), 4),
            "checkpoint_share_of_a_minute": round(statistics.median(extra) / MINUTE_SECONDS, 5),
        }

    def packed(self) -> dict[str, float]:
        """Rows of several documents, computed document by document, against the same behind masks."""
        ratios = {}
        for precision in self.precisions:
            rounds = []
            for _ in range(self.preset["rounds"]):
                documents = self.ours(precision)
                with patch.dict(document_attention.LEAST_POSITIONS, {self.group.device.type: 1 << 62}):
                    masks = self.ours(precision)
                check_same({"ours": documents, "masks": masks}, SAME_LOSS_NATS[precision])
                rounds.append((documents.tokens_per_second, masks.tokens_per_second))
            ratios[precision] = ratio(*(list(speeds) for speeds in zip(*rounds, strict=True)))
        return ratios

    def deepspeeds_own_cost(self) -> float:
        """The same loop on DeepSpeed's engine, which one worker has no use for, against the bare loop.

        After everything else: DeepSpeed leaves a process group behind, which Trainer would take for several workers.
        """
        rounds = [(self.ours("fp32", zero_stage=2), self.bare("fp32")) for _ in range(SIDE_ROUNDS)]
        for sharded, bare in rounds:
            check_same({"DeepSpeed": sharded, "ours": bare}, SAME_LOSS_NATS["fp32"])
        return ratio(*([timed.tokens_per_second for timed in of_loop] for of_loop in zip(*rounds, strict=True)))

    # -- the loops -------------------------------------------------------------------------------------------------

    def ours(self, precision: str, steps: int | None = None, every: int = 10_000, zero_stage: int = 0) -> Timed:
        """The loop that ships. Its steps are timed from without, so that logging and checkpoints are part of them."""
        job = self.job(precision, steps or self.preset["steps"], every, zero_stage)
        clock, events = StepClock(self.group.device), []

        def tell(event: dict[str, Any]) -> None:
            events.append(event)
            # Measuring held-out rows comes before the first step and after the last, and is no part of either.
            if event["event"] == "step" or (event["event"] == "heldout" and event["step"] == 0):
                clock.tick()

        train(job, self.group, tell)
        if not self.group.is_first:
            return Timed(1.0, [], 1.0)
        shutil.rmtree(job.work)  # nothing of it is written to the disk while the next loop is timed
        taken = [event for event in events if event["event"] == "step"]
        counted = taken[WARM_UP_STEPS:]
        waited = sum(event["data_wait_seconds"] for event in counted)
        return Timed(
            sum(event["tokens"] for event in counted) / clock.counted_seconds,
            [event["loss"] for event in taken],
            clock.counted_seconds,
            waited / clock.counted_seconds,
            next(event["checkpoint_stall_seconds"] for event in events if event["event"] == "finished"),
        )

    def bare(self, precision: str) -> Timed:
        """What one would write by hand: forward, backward, clip, step. In bf16 by autocast."""
        model = self.model()
        decayed = [p for p in model.parameters() if p.ndim > 1]
        rest = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), fused=True)
        accumulated = self.accumulation_steps
        batches = [list(self.micro_batches(step)) for step in range(self.preset["steps"])]
        clock, losses = StepClock(self.group.device), []
        clock.tick()
        for micro_batches in batches:
            total = torch.zeros((), device=self.group.device)
            for batch in micro_batches:
                with torch.autocast(self.group.device.type, torch.bfloat16, enabled=precision == "bf16"):
                    loss = model(**batch, use_cache=False).loss
                (loss / accumulated).backward()
                total += loss.detach() / accumulated
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(total))
            clock.tick()
        return Timed(self.tokens_of(clock), losses, clock.counted_seconds)

    def hf_trainer(self, precision: str) -> Timed:
        """Hugging Face's Trainer with the same optimiser, accumulation and clipping."""
        from transformers import Trainer, TrainerCallback, TrainingArguments

        clock = StepClock(self.group.device)
        parts: list[torch.Tensor] = []

        class Timing(TrainerCallback):  # type: ignore[misc]
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                clock.tick()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.tick()

        class Noting(Trainer):  # type: ignore[misc]
            def compute_loss(self, *given: Any, **named: Any) -> torch.Tensor:
                loss: torch.Tensor = super().compute_loss(*given, **named)
                parts.append(loss.detach())
                return loss

        micro = self.preset["micro_batch_sequences"]
        arguments = TrainingArguments(
            output_dir=str(self.folder / "hf"),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=self.accumulation_steps,
            max_steps=self.preset["steps"],
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            weight_decay=0.1,
            adam_beta2=0.95,
            optim="adamw_torch_fused",
            max_grad_norm=1.0,
            bf16=precision == "bf16",
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            train_sampling_strategy="sequential",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        rows = [
            row for step in range(self.preset["steps"]) for batch in self.micro_batches(step) for row in _rows(batch)
        ]
        Noting(model=self.model(), args=arguments, train_dataset=rows, callbacks=[Timing()]).train()
        # Each part is divided by the labels of its whole batch, so that they add up to the step's loss.
        losses = torch.stack(parts).view(-1, self.accumulation_steps).sum(dim=1).tolist()
        return Timed(self.tokens_of(clock), losses, clock.counted_seconds)

    # -- what they share -------------------------------------------------------------------------------------------

    def job(self, precision: str, steps: int, every: int, zero_stage: int = 0) -> TrainJob:
        spec = self.spec(precision, steps, every, zero_stage)
        self.num_runs += 1
        work = self.folder / f"run-{self.num_runs}"
        if self.group.is_first:
            work.mkdir()
        self.group.wait_for_all()
        return TrainJob(
            spec=spec,
            base=None,
            tokenizer=self.folder / "tokenizer",
            train=(self.folder / "train",),
            shares=(1.0,),
            heldout={"heldout": self.folder / "heldout"},
            work=work,
            out=work / "out",
            num_rows=rows_of_run(spec, [1], [1.0]),
            micro_batch_sequences=spec.micro_batch_sequences,
        )

    def spec(self, precision: str, steps: int, every: int, zero_stage: int = 0) -> TrainSpec:
        length = self.preset["sequence_length_tokens"]
        return TrainSpec.model_validate(
            {
                "kind": "train",
                "name": "bench",
                "architecture": self.preset["architecture"],
                "data": {"type": "corpus", "corpus": "artifact:bench"},
                "sequence_length_tokens": length,
                "micro_batch_sequences": self.preset["micro_batch_sequences"],
                "global_batch_tokens": length * self.preset["global_batch_sequences"],
                "num_steps": steps,
                "learning_rate": LEARNING_RATE,
                "schedule": {"type": "constant"},
                "precision": precision,
                "checkpoints": {"every_steps": every},
                "sharding": {"zero_stage": zero_stage},
                "workers": {"num_workers": self.group.num_workers},
            }
        )

    def size(self) -> Any:
        return size_of_job(self.job("fp32", 1, 1))

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        model = fresh(self.spec("fp32", 1, 1).architecture, self.folder / "tokenizer")
        return model.to(self.group.device).train()

    def micro_batches(self, step: int) -> Iterator[dict[str, torch.Tensor]]:
        micro = self.preset["micro_batch_sequences"]
        objective = NextToken(self.preset["sequence_length_tokens"])
        shards = [objective.rows(self.folder / "train")]
        rows = RunRows(objective, shards, [1.0], 0, 10**9, self.preset["global_batch_sequences"])
        places = rows.of_step(step)
        for begin in range(0, len(places), micro):
            tokens = rows.batch(places[begin : begin + micro], begin).to(self.group.device).tokens
            yield {"input_ids": tokens, "labels": tokens}

    @property
    def accumulation_steps(self) -> int:
        return int(self.preset["global_batch_sequences"] // self.preset["micro_batch_sequences"])

    def tokens_of(self, clock: StepClock) -> float:
        """Tokens a second of a loop whose steps were timed."""
        tokens = self.preset["global_batch_sequences"] * self.preset["sequence_length_tokens"]
        return float(tokens * clock.num_counted / clock.counted_seconds)

    def _write_rows(self) -> None:
        """Documents of exactly a row, so that no loop has boundaries to respect, with words as rare as real ones; or
        of a part of it, where the preset says so."""
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        size, length = self.preset["vocabulary"], self.preset["sequence_length_tokens"]
        document = self.preset.get("document_tokens", length)
        words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(size)}, unk_token="w0"))
        PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0").save_pretrained(self.folder / "tokenizer")
        random = np.random.default_rng(0)
        weights = 1 / np.arange(1, size + 1)
        for name, count in (("train", 256), ("heldout", 2)):
            writer = ShardWriter(self.folder / name, size, "bench", sequence_length_tokens=length)
            for _ in range(count):
                writer.start_row()
                for _ in range(length // document):
                    writer.add(random.choice(size, document, p=weights / weights.sum()))
            writer.close()


def _rows(batch: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    tokens = batch["input_ids"]
    assert not (tokens == NO_LABEL).any()
    return [{"input_ids": row, "labels": row} for row in tokens]


def _report(found: dict[str, Any], save: bool) -> None:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else hardware()
    found = {"hardware": name, "cores": len(os.sched_getaffinity(0)), **found}
    if save:
        RESULTS.mkdir(exist_ok=True)
        slug = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
        file = RESULTS / f"train-{slug}-{datetime.date.today()}.json"
        file.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
