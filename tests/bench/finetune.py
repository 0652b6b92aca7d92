"""Fine-tuning measured: `make bench-finetune`.

Instruction tuning: LoRA on SmolLM2 with Alpaca rows, by the loop that ships and by TRL's SFTTrainer as it is and with
its packing, on the same token ids and labels, each in a process of its own, in turn. Tokens of text a second (padding
does not count) and the loss on the same held-out rows, measured by one function for all. QLoRA: its base's bytes beside
bf16's. Sentiment: the accuracy of whole weights and of LoRA on English film reviews, as jobs/recipes/sentiment-en
trains them, beside TF-IDF and logistic regression; taken from the store where they are finished. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "platform"))

from hardware import hardware
from results_file import save

from rayloom.artifacts.store import Store
from rayloom.dispatch import load_job, resolve, run
from rayloom.models.loading import load
from rayloom.models.quantised import load_quantised, stored_bytes
from rayloom.score.batches import NO_LABEL
from rayloom.score.perplexity import heldout_loss
from rayloom.text.packed.preview import documents
from rayloom.text.packed.shards import TokenShards
from rayloom.train.job import TrainJob
from rayloom.train.loop.loop import train
from rayloom.train.loop.run_log import read_log
from rayloom.train.prepare import job_of
from rayloom.train.process_group import Group

ROOT = Path(__file__).parents[2]
WARM_UP_STEPS = 2
RANK = 16
LEARNING_RATE = 5e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="interpreter of an environment with TRL")
    parser.add_argument("--rows", type=int, default=400, help="Alpaca rows; the longest are left out")
    parser.add_argument("--heldout", type=int, default=60, help="rows to measure the loss on")
    parser.add_argument("--length", type=int, default=256, help="tokens of a packed row")
    parser.add_argument("--sequences", type=int, default=8, help="conversations a step")
    parser.add_argument("--no-sentiment", action="store_true", help="instructions alone; --save keeps the day's rest")
    parser.add_argument("--save", action="store_true", help="also write the result under tests/bench/results")
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        print(json.dumps(ours(options.ours, options)))
        return
    result: dict[str, Any] = {"hardware": hardware(), "date": time.strftime("%Y-%m-%d")}
    result["threads"] = torch.get_num_threads()
    result |= {
        "rows_read": options.rows + options.heldout,
        "length_tokens": options.length,
        "sequences_a_step": options.sequences,
    }
    with tempfile.TemporaryDirectory() as folder:
        result |= instruction_tuning(Path(folder), options)
        result |= quantised_base(prepared(Path(folder), options))
    if not options.no_sentiment:
        result |= sentiment()
    if options.save:
        save("finetune", result)
    print(json.dumps(result))


def instruction_tuning(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Our loop and TRL on the same rows."""
    job = prepared(folder, options)
    rows = as_rows(job, folder / "rows.jsonl")
    found = {"rayloom": in_own_process([sys.executable, __file__, "--ours", str(folder)], options)}
    if options.peer:
        for name, packing in (("trl", False), ("trl_packed", True)):
            asked = {
                "model": str(job.base), "rows": str(rows), "out": str(folder / name), "rank": RANK, "alpha": 2 * RANK,
                "sequences_per_step": job.micro_batch_sequences if packing else options.sequences,
                "learning_rate": LEARNING_RATE, "max_length": options.length, "packing": packing,
            }  # fmt: skip
            command = [str(options.peer), str(Path(__file__).parent / "trl_peer.py")]
            found[name] = in_own_process(command, options, json.dumps(asked))
    speeds = {name: of_one["tokens"] / of_one["seconds"] for name, of_one in found.items()}
    losses = {name: loss_of(job, folder / name, options.length) for name in found}
    result = {"tokens_per_second": round(speeds["rayloom"], 1), "heldout_loss": losses["rayloom"]}
    result |= {
        "packed_rows_a_step": job.micro_batch_sequences,
        "tokens_a_conversation": num_tokens(job) // job_rows(job),
    }
    result |= {"conversations": job_rows(job), "steps": job.num_steps}
    result["heldout_loss_base"] = loss_of(job, None, options.length)
    if options.peer:
        result["ratio_vs_trl"] = round(speeds["rayloom"] / speeds["trl"], 3)
        result["ratio_vs_trl_packed"] = round(speeds["rayloom"] / speeds["trl_packed"], 3)
        result["heldout_loss_trl"] = losses["trl"]
        result["heldout_loss_trl_packed"] = losses["trl_packed"]
    return result


def prepared(folder: Path, options: argparse.Namespace) -> TrainJob:
    """Conversations rendered once, for everyone."""
    file = load_job(
        ROOT / "jobs/recipes/instructions/lora.yaml", (f"data.sources.0.limit_rows={options.rows + options.heldout}",)
    )
    found = resolve(file, Store.beside(file.directory))
    values = {"heldout_rows": options.heldout, "max_length_policy_share": 1.0, "length_policy": "drop"}
    spec: Any = found.spec
    spec = spec.model_copy(
        update={
            "data": spec.data.model_copy(update=values),
            "sequence_length_tokens": options.length,
            "micro_batch_sequences": 1,
            "global_batch_tokens": options.length,
        }
    )
    (folder / "work").mkdir(exist_ok=True)
    job = job_of(spec, found.parents, folder / "work", folder / "rayloom")
    rows_a_step = max(1, round(options.sequences * len(TokenShards(job.train[0], options.length)) / job_rows(job)))
    spec = spec.model_copy(
        update={"global_batch_tokens": rows_a_step * options.length, "micro_batch_sequences": rows_a_step}
    )
    return replace(job, spec=spec, micro_batch_sequences=rows_a_step)


def job_rows(job: TrainJob) -> int:
    return TokenShards(job.train[0], job.spec.sequence_length_tokens).num_documents


def num_tokens(job: TrainJob) -> int:
    return TokenShards(job.train[0], job.spec.sequence_length_tokens).num_tokens


def as_rows(job: TrainJob, file: Path) -> Path:
    """Our rendered conversations as TRL takes them: ids and labels.

    It takes labels as they are; a `completion_mask` beside ids it would pass over, and train on the questions too.
    """
    shards = TokenShards(job.train[0], job.spec.sequence_length_tokens)
    lines = []
    for row in (shards.row(index) for index in range(len(shards))):
        for part in documents(row):
            ids, trained = row.tokens[part].tolist(), row.trained[part].tolist()
            labels = [token if is_label else NO_LABEL for token, is_label in zip(ids, trained, strict=True)]
            lines.append(json.dumps({"input_ids": ids, "labels": labels}))
    file.write_text("\n".join(lines) + "\n")
    return file


def in_own_process(command: list[str], options: argparse.Namespace, asked: str = "") -> dict[str, Any]:
    names = ("rows", "heldout", "length", "sequences")
    further = [part for name in names for part in (f"--{name}", str(getattr(options, name)))]
    whole = command + (further if "--ours" in command else [])
    done = subprocess.run(whole, input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[1]} failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{' '.join(command[1:3])}: {found['tokens'] / found['seconds']:.0f} tokens/s", file=sys.stderr, flush=True)
    return found


def ours(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    job = prepared(folder, options)
    train(job, Group(0, 1, torch.device("cpu")), lambda event: None)
    steps = [event for event in read_log(job.log) if event["event"] == "step"][WARM_UP_STEPS:]
    return {"seconds": sum(step["seconds"] for step in steps), "tokens": sum(step["tokens"] for step in steps)}


def loss_of(job: TrainJob, adapter: Path | None, length: int) -> float:
    if job.base is None:
        raise ValueError("an adapter needs its base")
    heldout = TokenShards(job.heldout["heldout"], length)
    return round(heldout_loss(load(job.base, adapter), heldout, 1).mean_nats, 4)


def quantised_base(job: TrainJob) -> dict[str, Any]:
    """Parts of bf16's bytes that the base takes while QLoRA trains: of the linear layers, and of the whole."""
    from transformers import AutoModelForCausalLM

    if job.base is None:
        raise ValueError("QLoRA needs a base")
    whole = AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.bfloat16)
    held = load_quantised(AutoModelForCausalLM, job.base, "nf4", torch.bfloat16)
    linear = [
        sum(stored_bytes(module) for name, module in model.named_modules() if name.endswith("_proj"))
        for model in (held, whole)
    ]
    return {
        "qlora_linear_share": round(linear[0] / linear[1], 4),
        "qlora_base_share": round(stored_bytes(held) / stored_bytes(whole), 4),
    }


def sentiment() -> dict[str, Any]:
    """Accuracies of the recipes, trained where the store does not hold them."""
    folder = ROOT / "jobs/recipes"
    jobs = ["imports/minilm", "imports/movie-reviews", "sentiment-en/train", "sentiment-en/train-lora"]
    for name in (*jobs, "sentiment-en/evaluate"):
        file = load_job(folder / f"{name}.yaml", ("checks.0.min_score=null",) if name.endswith("evaluate") else ())
        artifact, _ = run(file, Store.beside(file.directory))
    found = artifact.manifest.metrics["checks"]["reviews"]
    return {
        "accuracy_full": found["model"]["score"],
        "accuracy_full_interval": found["model"]["interval"],
        "accuracy_lora": found["baseline"]["score"],
        "accuracy_linear": found["model"]["linear_baseline"]["score"],
    }


if __name__ == "__main__":
    main()
