"""What a teacher is worth to a student, and what it costs: `make bench-distill`.

SmolLM2-135M-Instruct teaches a student that begins with half of its layers, on English web pages, encyclopedia text and
news. `gap_recovered`: the student is trained twice on the same tokens in the same order, without and with the teacher;
the part of the held-out loss between the first and the teacher that the second makes up for. `step_ratio`: seconds of a
step with the teacher beside those of a step without it and of the teacher's forward pass alone, taken in turn;
`recorded_step_ratio`: a step with a teacher that was recorded beside one without. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "platform"))

from hardware import hardware
from real_text import real_documents
from results_file import save

from rayloom.artifacts.store import Store
from rayloom.dispatch import load_job, run
from rayloom.models.loading import load
from rayloom.models.responders.subject import Subject
from rayloom.score.label_loss import LabelLoss
from rayloom.score.parallel.axis import Axis
from rayloom.score.perplexity import heldout_loss
from rayloom.specs.train import TrainSpec
from rayloom.text.packed.shards import ShardWriter, TokenShards
from rayloom.text.tokenizer_files import tokenizer_digest
from rayloom.train.engines.engine import engine_for
from rayloom.train.job import TrainJob
from rayloom.train.loop.batch_feed import micro_batches
from rayloom.train.loop.loop import train
from rayloom.train.loop.run_log import read_log
from rayloom.train.loop.run_state import engine_model, rows_of
from rayloom.train.objectives.recorded import record, records_of
from rayloom.train.process_group import Group
from rayloom.train.weights.teacher import load_teacher

ROOT = Path(__file__).parents[2]
LENGTH, ROWS_A_STEP = 256, 2
HELDOUT_ROWS = 16
MOST_CHARACTERS = 8000
"""Of a document; what is longer is cut there."""
WARM_UP_ROUNDS = 1
HERE = Group(0, 1, torch.device("cpu"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=ROOT / ".rayloom", help="where models and texts are, or come to")
    parser.add_argument("--parts", nargs="+", default=("gap", "step"), choices=("gap", "step"))
    parser.add_argument("--steps", type=int, default=120, help="of each student")
    parser.add_argument("--rounds", type=int, default=7, help="of each step that is timed")
    parser.add_argument(
        "--clock",
        choices=("wall", "process"),
        default="wall",
        help="process: CPU seconds, where others use the machine",
    )
    parser.add_argument("--layers", default="15", help="how many layers the student has, or which: 0,1,2")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weight", type=float, default=1.0)
    parser.add_argument("--hidden-states", type=float, default=30.0, help="weight of the distance between the layers")
    parser.add_argument("--save", action="store_true", help="also write the result under tests/bench/results")
    options = parser.parse_args()
    result: dict[str, Any] = {"hardware": hardware(), "date": time.strftime("%Y-%m-%d")}
    result |= {"threads": torch.get_num_threads(), "tokens_a_step": LENGTH * ROWS_A_STEP}
    store = Store(str(options.store))
    teacher = run(load_job(ROOT / "jobs/quickstart/import-smollm2.yaml"), store)[0].path
    # A run that was killed goes on at its last checkpoint.
    named = f"{options.steps}-{options.layers}-{options.learning_rate:g}-{options.weight:g}-{options.hidden_states}"
    folder = options.store / "bench-distill" / named
    if not (folder / "train").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(folder, teacher, real_documents(options.store), options.steps * ROWS_A_STEP * LENGTH)
    if "step" in options.parts:
        few = folder.with_name(f"timed-{options.rounds}")
        if not (few / "train").exists():
            few.mkdir()
            tokens = (options.rounds + WARM_UP_ROUNDS + 1) * ROWS_A_STEP * LENGTH
            write_rows(few, teacher, real_documents(options.store), tokens)
        result |= timed(few, teacher, options)
    if "gap" in options.parts:
        result |= gap(folder, teacher, options)
    if options.save:
        save("distill", result)
    print(json.dumps(result))


def write_rows(folder: Path, model: Path, texts: list[str], num_tokens: int) -> None:
    """Documents in a drawn order: first those that are held out, then `num_tokens` to train on."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    digest = tokenizer_digest(tokenizer)
    drawn = iter(random.Random(0).sample(texts, len(texts)))
    for name, wanted in (("heldout", HELDOUT_ROWS * LENGTH), ("train", num_tokens)):
        writer = ShardWriter(folder / name, len(tokenizer), digest)
        while wanted > 0:
            ids = [*tokenizer.encode(next(drawn)[:MOST_CHARACTERS]), tokenizer.eos_token_id]
            writer.add(np.array(ids))
            wanted -= len(ids)
        writer.close()


def job_of(folder: Path, model: Path, name: str, options: argparse.Namespace, *, is_taught: bool) -> TrainJob:
    values: dict[str, Any] = {
        "kind": "train",
        "name": name,
        "base": str(model),
        "keep_layers": [int(n) for n in options.layers.split(",")] if "," in options.layers else int(options.layers),
        "data": {"type": "corpus", "corpus": "artifact:bench"},
        "sequence_length_tokens": LENGTH,
        "micro_batch_sequences": ROWS_A_STEP,
        "global_batch_tokens": LENGTH * ROWS_A_STEP,
        "num_steps": options.steps,
        "learning_rate": options.learning_rate,
        "schedule": {"type": "cosine", "warmup_steps": options.steps // 10},
        "checkpoints": {"every_steps": 6, "keep": 1},
    }
    if is_taught:
        values["teacher"] = {"model": str(model), "weight": options.weight}
        values["teacher"]["hidden_states_weight"] = options.hidden_states or None
    spec = TrainSpec.model_validate(values)
    (folder / name).mkdir(exist_ok=True)
    return TrainJob(
        spec=spec,
        base=model,
        tokenizer=model,
        train=(folder / "train",),
        shares=(1.0,),
        heldout={"heldout": folder / "heldout"},
        work=folder / name,
        out=folder / name / "out",
        num_rows=options.steps * ROWS_A_STEP,
        micro_batch_sequences=ROWS_A_STEP,
        teacher=Subject("teacher", "smollm2", model) if is_taught else None,
    )


def gap(folder: Path, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    rows = TokenShards(folder / "heldout", LENGTH)
    losses = {"teacher": heldout_loss(load(model), rows, 1).mean_nats}
    for name, is_taught in (("alone", False), ("taught", True)):
        job = job_of(folder, model, name, options, is_taught=is_taught)
        if not job.finished.exists():
            train(job, HERE, lambda event: print(event, file=sys.stderr, flush=True))
        measured = [event["loss"] for event in read_log(job.log) if event["event"] == "heldout"]
        losses["untrained"], losses[name] = measured[0], measured[-1]
        print(f"{name}: {measured}", file=sys.stderr, flush=True)
    recovered = (losses["alone"] - losses["taught"]) / (losses["alone"] - losses["teacher"])
    return {
        "heldout_loss": {name: round(loss, 4) for name, loss in losses.items()},
        "gap_recovered": round(recovered, 4),
        "layers": options.layers,
        "steps": options.steps,
        "tokens": options.steps * LENGTH * ROWS_A_STEP,
        "learning_rate": options.learning_rate,
        "weight": options.weight,
        "hidden_states_weight": options.hidden_states,
    }


def timed(folder: Path, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step without a teacher, with one and with one that was recorded, and of the teacher alone."""
    steps = {}
    for name in ("student", "taught", "recorded"):
        job = job_of(folder, model, f"timed-{name}", options, is_taught=name != "student")
        if name == "recorded":
            values = job.spec.model_dump()
            values["teacher"] |= {"recorded": {"top_k": 64}, "hidden_states_weight": None}
            spec = TrainSpec.model_validate(values)
            job = replace(job, spec=spec, records=records_of(spec, job.teacher, job.train))
            record(job, HERE, lambda text: None)
        rows = rows_of(job, job.spec)
        _, loss, _ = engine_model(job, rows.objective, HERE.device)
        steps[name] = (engine_for(job.spec, loss, HERE), rows)
    teacher = LabelLoss(load_teacher(job.spec, Subject("teacher", "smollm2", model), HERE.device))

    clock = time.process_time if options.clock == "process" else time.perf_counter

    def seconds(name: str, turn: int) -> float:
        engine, rows = steps["taught" if name == "teacher" else name]
        (batch,) = micro_batches(rows, turn, ROWS_A_STEP, Axis())
        started = clock()
        if name == "teacher":
            with torch.no_grad():
                teacher(batch)
        else:
            engine.backward(engine.loss(batch) / batch.num_labels, is_last=True)
            engine.step(1e-5)
        return clock() - started

    names = ("student", "teacher", "taught", "recorded")
    rounds = [{name: seconds(name, turn) for name in names} for turn in range(WARM_UP_ROUNDS + options.rounds)]
    counted = rounds[WARM_UP_ROUNDS:]
    medians = {f"{name}_seconds": round(statistics.median(one[name] for one in counted), 3) for name in names}
    ratio = statistics.median(one["taught"] / (one["student"] + one["teacher"]) for one in counted)
    stored = statistics.median(one["recorded"] / one["student"] for one in counted)
    ratios = {"step_ratio": round(ratio, 4), "recorded_step_ratio": round(stored, 4)}
    return {**medians, **ratios, "rounds": options.rounds, "clock": options.clock, "timed_weight": options.weight}


if __name__ == "__main__":
    main()
