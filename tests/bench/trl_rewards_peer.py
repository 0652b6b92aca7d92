"""TRL's GRPOTrainer on the prompts of `rewards.py`, which runs it with the interpreter of TRL's environment.

Reads a JSON object on standard input: model, rows (`train` and `heldout`, each with `prompt` and `answer`), out,
group_size, answers_a_step, at_once, steps, learning_rate, seed, max_answer_tokens, rank. Prints answers a second of
training (without the first step) and the share of right held-out answers as the last line.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Clock(TrainerCallback):
    """Seconds of each step; TRL writes answers inside them."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def right(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    said = [one[0]["content"].strip().lower() for one in completions]
    return [float(text == wanted.strip().lower()) for text, wanted in zip(said, answer, strict=True)]


def found(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    said = [one[0]["content"].lower() for one in completions]
    return [float(wanted.lower() in text) for text, wanted in zip(said, answer, strict=True)]


def short(completions: list[Any], **_: Any) -> list[float]:
    """The recipe's length reward: 1 for at most one word, a twelfth less for each further one."""
    return [max(0.0, 1 - max(0, len(one[0]["content"].split()) - 1) / 12) for one in completions]


def main() -> None:
    job = json.load(sys.stdin)
    config = GRPOConfig(
        output_dir=job["out"],
        per_device_train_batch_size=job["at_once"],
        gradient_accumulation_steps=job["answers_a_step"] // job["at_once"],
        num_generations=job["group_size"],
        max_completion_length=job["max_answer_tokens"],
        max_steps=job["steps"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        temperature=1.0,
        beta=0.0,
        loss_type="grpo",
        scale_rewards="group",
        reward_weights=[1.0, 0.5, 0.5],
        weight_decay=0.0,
        adam_beta2=0.99,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        model_init_kwargs={"dtype": torch.float32},
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        seed=job["seed"],
        disable_tqdm=True,
    )
    lora = LoraConfig(r=job["rank"], lora_alpha=2 * job["rank"], target_modules="all-linear", task_type="CAUSAL_LM")
    clock = Clock()
    trainer = GRPOTrainer(
        model=job["model"],
        reward_funcs=[right, found, short],
        args=config,
        train_dataset=Dataset.from_list(job["rows"]["train"]),
        peft_config=lora,
        callbacks=[clock],
    )
    trainer.train()
    measured = clock.seconds[1:]
    score = share_right(trainer.model, AutoTokenizer.from_pretrained(job["model"]), job)
    speed = job["answers_a_step"] * len(measured) / sum(measured)
    print(json.dumps({"answers_per_second": round(speed, 3), "seconds": round(sum(clock.seconds), 1), "after": score}))


@torch.no_grad()
def share_right(model: Any, tokenizer: Any, job: dict[str, Any]) -> float:
    rows = job["rows"]["heldout"]
    said = []
    for row in rows:
        ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_tensors="pt")
        ids = ids["input_ids"] if hasattr(ids, "keys") else ids
        made = model.eval().generate(input_ids=ids, do_sample=False, max_new_tokens=job["max_answer_tokens"])
        said.append([{"content": tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)}])
    return sum(right(said, [row["answer"] for row in rows])) / len(rows)


if __name__ == "__main__":
    main()
