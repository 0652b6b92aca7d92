"""The training loop measured: `make bench-train`, or on a GPU machine without Ray: this file with --device cuda.

The loop that ships, a bare PyTorch loop and Hugging Face's Trainer take turns in one process, on the same model, rows,
batches and arithmetic (fp32 weights, fp32 or bf16 products as all three have it). What checkpoints cost is measured on
the same model. Prints, last, one JSON object. With --save, also writes it to results/.

On a GPU: tokens a second of a decoder of about 1B parameters in bf16, as a share of the measured matrix-multiply peak.
Under torchrun every process joins in.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "platform"))

from rayloom.score.batches import NO_LABEL
from rayloom.specs.train import TrainSpec
from rayloom.text.shards import ShardWriter
from rayloom.train.architectures import fresh
from rayloom.train.estimates import flops_per_token
from rayloom.train.feed import Rows
from rayloom.train.group import Group, current_group
from rayloom.train.job import TrainJob, rows_of_run
from rayloom.train.loop import train
from rayloom.train.objective import NextToken
from rayloom.train.plan import model_size

RESULTS = Path(__file__).parent / "results"
WARM_UP_STEPS = 3
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {
        "architecture": {"type": "decoder", "num_layers": 6, "hidden_size": 384, "max_positions": 512},
        "vocabulary": 8192,
        "sequence_length_tokens": 256,
        "micro_batch_sequences": 4,
        "global_batch_sequences": 8,
        "steps": 8,
        "rounds": 4,
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

    # -- what is measured ------------------------------------------------------------------------------------------

    def on_cpu(self) -> dict[str, Any]:
        found: dict[str, Any] = {"threads": torch.get_num_threads(), "model_parameters": self.size().parameters}
        for precision in ("fp32", "bf16"):
            speeds: dict[str, list[float]] = {"ours": [], "bare": [], "hf_trainer": []}
            for _ in range(self.preset["rounds"]):
                speeds["ours"].append(self.ours(precision)["tokens_per_second"])
                speeds["bare"].append(self.bare(precision))
                speeds["hf_trainer"].append(self.hf_trainer(precision))
            found[precision] = _compared(speeds)
            print(f"{precision}: {json.dumps(found[precision])}", flush=True)
        numbers = self.ours("fp32")
        return {
            **{key: found["fp32"][key] for key in ("tokens_per_second", "ratio_vs_bare", "ratio_vs_hf_trainer")},
            "data_wait_fraction": numbers["data_wait_fraction"],
            **self.checkpoints(),
            **found,
        }

    def on_gpu(self) -> dict[str, Any]:
        peak = matrix_peak(self.group.device)
        runs = [self.ours("bf16") for _ in range(self.preset["rounds"])]
        speed = statistics.median(run["tokens_per_second"] for run in runs)
        flops = flops_per_token(self.size(), self.preset["sequence_length_tokens"])
        bare = statistics.median(self.bare("bf16") for _ in range(self.preset["rounds"]))
        return {
            "tokens_per_second": round(speed, 1),
            "ratio_vs_bare": round(speed / bare, 4),
            "data_wait_fraction": runs[-1]["data_wait_fraction"],
            "model_parameters": self.size().parameters,
            "measured_peak_tflops": round(peak / 1e12, 1),
            "model_flops_utilisation": round(speed * flops / (peak * self.group.num_workers), 4),
            "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        }

    def checkpoints(self) -> dict[str, Any]:
        """What a checkpoint costs: how long training stands still, and how much slower it is while one is written."""
        steps = 24
        without = self.ours("bf16", steps=steps, every=10_000)
        with_them = self.ours("bf16", steps=steps, every=4)
        taken = (steps - WARM_UP_STEPS) // 4
        extra = max(0.0, with_them["seconds"] - without["seconds"]) / taken
        return {
            "checkpoint_stall_seconds": round(with_them["stall_seconds"] / (steps // 4), 4),
            "checkpoint_share_of_a_minute": round(extra / 60, 5),
        }

    # -- the loops -------------------------------------------------------------------------------------------------

    def ours(self, precision: str, steps: int | None = None, every: int = 10_000) -> dict[str, float]:
        """The loop that ships."""
        job = self.job(precision, steps or self.preset["steps"], every)
        events: list[dict[str, Any]] = []
        train(job, self.group, events.append)
        taken = [event for event in events if event["event"] == "step"][WARM_UP_STEPS:]
        seconds = sum(event["seconds"] for event in taken)
        stall = [event["checkpoint_stall_seconds"] for event in events if event["event"] == "finished"]
        if not self.group.is_first:
            return {"tokens_per_second": 1.0, "data_wait_fraction": 0.0, "stall_seconds": 0.0, "seconds": 1.0}
        return {
            "tokens_per_second": sum(event["tokens"] for event in taken) / seconds,
            "data_wait_fraction": round(sum(event["data_wait_seconds"] for event in taken) / seconds, 5),
            "stall_seconds": stall[0],
            "seconds": seconds + stall[0],
        }

    def bare(self, precision: str) -> float:
        """What one would write by hand: forward, backward, clip, step. In bf16 by autocast."""
        model = self.model()
        decayed = [p for p in model.parameters() if p.ndim > 1]
        rest = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)
        accumulated = self.preset["global_batch_sequences"] // self.preset["micro_batch_sequences"]
        timer = StepTimer(self.preset["steps"] // self.group.num_workers or 1)
        for step in range(self.preset["steps"]):
            timer.start()
            for batch in self.micro_batches(step):
                with torch.autocast(self.group.device.type, torch.bfloat16, enabled=precision == "bf16"):
                    loss = model(**batch, use_cache=False).loss
                (loss / accumulated).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            timer.stop(self.group.device)
        return self.tokens_a_step() / timer.median

    def hf_trainer(self, precision: str) -> float:
        """Hugging Face's Trainer with the same optimiser, accumulation and clipping."""
        from transformers import Trainer, TrainerCallback, TrainingArguments

        timer = StepTimer(self.preset["steps"])

        class Timing(TrainerCallback):  # type: ignore[misc]
            # From end to end: fetching rows is part of a step, as it is of ours.
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                timer.start()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                timer.stop(torch.device("cpu"))
                timer.start()

        micro = self.preset["micro_batch_sequences"]
        arguments = TrainingArguments(
            output_dir=str(self.folder / "hf"),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=self.preset["global_batch_sequences"] // micro,
            max_steps=self.preset["steps"],
            learning_rate=3e-4,
            weight_decay=0.1,
            adam_beta2=0.95,
            optim="adamw_torch_fused",
            max_grad_norm=1.0,
            bf16=precision == "bf16",
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        rows = [
            row for step in range(self.preset["steps"]) for batch in self.micro_batches(step) for row in _rows(batch)
        ]
        trainer = Trainer(model=self.model(), args=arguments, train_dataset=rows, callbacks=[Timing()])
        trainer.train()
        return self.tokens_a_step() / timer.median

    # -- what they share -------------------------------------------------------------------------------------------

    def job(self, precision: str, steps: int, every: int) -> TrainJob:
        spec = self.spec(precision, steps, every)
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

    def spec(self, precision: str, steps: int, every: int) -> TrainSpec:
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
                "learning_rate": 3e-4,
                "precision": precision,
                "checkpoints": {"every_steps": every},
                "workers": {"num_workers": self.group.num_workers},
            }
        )

    def size(self) -> Any:
        return model_size(replace(self.job("fp32", 1, 1)))

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        model = fresh(self.spec("fp32", 1, 1).architecture, self.folder / "tokenizer")
        return model.to(self.group.device).train()

    def micro_batches(self, step: int) -> Iterator[dict[str, torch.Tensor]]:
        micro = self.preset["micro_batch_sequences"]
        objective = NextToken(self.preset["sequence_length_tokens"])
        shards = [objective.rows(self.folder / "train")]
        rows = Rows(objective, shards, [1.0], 0, 10**9, self.preset["global_batch_sequences"])
        places = rows.of_step(step)
        for begin in range(0, len(places), micro):
            tokens = rows.batch(places[begin : begin + micro], begin).to(self.group.device).tokens
            yield {"input_ids": tokens, "labels": tokens}

    def tokens_a_step(self) -> int:
        return int(self.preset["global_batch_sequences"] * self.preset["sequence_length_tokens"])

    def _write_rows(self) -> None:
        """Documents of exactly a row, so that no loop has boundaries to respect, with words as rare as real ones."""
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        size, length = self.preset["vocabulary"], self.preset["sequence_length_tokens"]
        words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(size)}, unk_token="w0"))
        PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0").save_pretrained(self.folder / "tokenizer")
        random = np.random.default_rng(0)
        weights = 1 / np.arange(1, size + 1)
        for name, count in (("train", 256), ("heldout", 2)):
            writer = ShardWriter(self.folder / name, size, "bench", sequence_length_tokens=length)
            for _ in range(count):
                writer.start_row()
                writer.add(random.choice(size, length, p=weights / weights.sum()))
            writer.close()


class StepTimer:
    """Seconds of each step; the first few do not count."""

    def __init__(self, steps: int) -> None:
        self.seconds: list[float] = []

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.seconds.append(time.perf_counter() - self._started)

    @property
    def median(self) -> float:
        return statistics.fmean(self.seconds[WARM_UP_STEPS:])


def _rows(batch: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    tokens = batch["input_ids"]
    assert not (tokens == NO_LABEL).any()
    return [{"input_ids": row, "labels": row} for row in tokens]


def _compared(speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Ratios by round, so that what slows the machine down slows both sides of a ratio; the median round counts."""
    rounds = list(zip(speeds["ours"], speeds["bare"], speeds["hf_trainer"], strict=True))
    return {
        "tokens_per_second": round(statistics.median(speeds["ours"]), 1),
        "ratio_vs_bare": round(statistics.median(ours / bare for ours, bare, _ in rounds), 4),
        "ratio_vs_hf_trainer": round(statistics.median(ours / peer for ours, _, peer in rounds), 4),
        "rounds": [[round(speed, 1) for speed in taken] for taken in rounds],
    }


def matrix_peak(device: torch.device) -> float:
    """FLOP/s of large bf16 matrix products on this device: what the hardware gives, not what its sheet says."""
    side = 8192
    one, other = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(5):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        for _ in range(20):
            one @ other
        torch.cuda.synchronize(device)
        best = max(best, 20 * 2 * side**3 / (time.perf_counter() - started))
    return best


def _report(found: dict[str, Any], save: bool) -> None:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    found = {"hardware": name, "cores": len(os.sched_getaffinity(0)), **found}
    if save:
        RESULTS.mkdir(exist_ok=True)
        slug = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
        file = RESULTS / f"{datetime.date.today()}-train-{slug}.json"
        file.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
