"""TRL's SFTTrainer on rows that were tokenised already; run by `finetune.py` with the interpreter of TRL's environment.

Reads a JSON object on standard input: model, rows (JSON lines with `input_ids`, `labels`), out, rank, alpha,
sequences_per_step, learning_rate, max_length, packing. Prints seconds and tokens of training as the last line.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

WARM_UP_STEPS = 2


class Clock(TrainerCallback):
    """Seconds and tokens of the steps behind the warm-up."""

    def __init__(self) -> None:
        self.seconds, self.steps, self.started = 0.0, 0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step > WARM_UP_STEPS:
            self.seconds += time.perf_counter() - self.started
            self.steps += 1


def main() -> None:
    job = json.load(sys.stdin)
    rows = [json.loads(line) for line in Path(job["rows"]).read_text().splitlines()]
    config = SFTConfig(
        output_dir=job["out"],
        per_device_train_batch_size=job["sequences_per_step"],
        num_train_epochs=1,
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        max_length=job["max_length"],
        packing=job["packing"],
        gradient_checkpointing=False,
        bf16=True,
        use_cpu=True,
        model_init_kwargs={"dtype": torch.bfloat16},
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        seed=0,
        disable_tqdm=True,
    )
    lora = LoraConfig(r=job["rank"], lora_alpha=job["alpha"], target_modules="all-linear", task_type="CAUSAL_LM")
    clock = Clock()
    trainer = SFTTrainer(
        model=job["model"], args=config, train_dataset=Dataset.from_list(rows), peft_config=lora, callbacks=[clock]
    )
    trainer.train()
    trainer.model.save_pretrained(job["out"])
    tokens = sum(len(row["input_ids"]) for row in rows)
    share = clock.steps / trainer.state.global_step
    print(json.dumps({"seconds": clock.seconds, "tokens": tokens * share, "steps": trainer.state.global_step}))


if __name__ == "__main__":
    main()
