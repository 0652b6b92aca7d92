"""Peers of `prepare.py`, run with the interpreter of TRL's environment: the same rows, template, mask and packing.

Reads a JSON object on standard input: which (`trl` or `datasets_map`), model, rows (JSON lines of `messages`), length,
processes, folder. Prints seconds, packed rows and tokens as the last line. Loading the model and libraries does not
count; reading the rows does.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from datasets import Dataset, disable_caching, load_dataset
from process_memory import cpu_seconds
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
from trl.data_utils import pack_dataset

Used = tuple[float, float]
"""Wall and CPU seconds."""


def used() -> Used:
    return time.perf_counter(), cpu_seconds()


def since(before: Used) -> Used:
    now = used()
    return now[0] - before[0], now[1] - before[1]


def read(job: dict[str, Any]) -> Dataset:
    return load_dataset("json", data_files=job["rows"], split="train", cache_dir=job["folder"])


def mapped(job: dict[str, Any]) -> tuple[Used, Dataset]:
    """What a user of `datasets` writes: the template, the tokenizer, a mask of the answers, and packing."""
    tokenizer = AutoTokenizer.from_pretrained(job["model"])

    def rendered(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        prompts = tokenizer.apply_chat_template(
            [messages[:-1] for messages in batch["messages"]], tokenize=False, add_generation_prompt=True
        )
        wholes = tokenizer.apply_chat_template(batch["messages"], tokenize=False)
        prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        ids = [one[: job["length"]] for one in tokenizer(wholes, add_special_tokens=False)["input_ids"]]
        masks = [
            [0] * min(len(prompt), len(whole)) + [1] * (len(whole) - len(prompt))
            for prompt, whole in zip(prompt_ids, ids, strict=True)
        ]
        return {"input_ids": ids, "completion_mask": masks}

    before = used()
    rows = read(job)
    found = rows.map(rendered, batched=True, num_proc=job["processes"], remove_columns=rows.column_names)
    packed = pack_dataset(found, job["length"], "bfd", {"num_proc": job["processes"]})
    return since(before), packed


def trl(job: dict[str, Any]) -> tuple[Used, Dataset]:
    """SFTTrainer's own preparation, as its constructor does it; what that takes for 64 rows is taken off."""
    model = AutoModelForCausalLM.from_pretrained(job["model"])
    config = SFTConfig(
        output_dir=job["folder"],
        max_length=job["length"],
        packing=True,
        dataset_num_proc=job["processes"],
        completion_only_loss=True,
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
    )

    def parted(row: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    each = []
    for only in (64, 64, None):  # the first time, libraries are loaded
        before = used()
        rows = read(job)
        rows = rows.select(range(only)) if only else rows
        rows = rows.map(parted, num_proc=job["processes"], remove_columns=rows.column_names)
        trainer = SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
        each.append(since(before))
    return (each[2][0] - each[1][0], each[2][1] - each[1][1]), trainer.train_dataset


def main() -> None:
    disable_caching()  # a row that was mapped before is mapped again
    job = json.load(sys.stdin)
    (seconds, of_cpus), packed = {"trl": trl, "datasets_map": mapped}[job["which"]](job)
    tokens = sum(len(ids) for ids in packed.with_format("arrow")["input_ids"])
    print(json.dumps({"seconds": seconds, "cpu_seconds": of_cpus, "tokens": tokens, "packed_rows": len(packed)}))


if __name__ == "__main__":
    main()
