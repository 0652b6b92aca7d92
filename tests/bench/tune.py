"""What a search costs and what it saves: `make bench-tune`.

LoRA on the quickstart's tiny-base, which goes on with parliamentary speeches; rank, learning rate and alpha are
searched. The same trials in sequence, two at a time, and without any search; then a full random search, and ASHA over
the same 16 candidates. Base and text are taken from the store where they are there. Prints what was found and, last,
one JSON object. With --save, also writes it to results/; with --part, measures one half only and adds it to that file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from hardware import hardware
from results_file import save

QUICKSTART = Path(__file__).parents[2] / "jobs" / "quickstart"
RECIPES = Path(__file__).parents[2] / "jobs" / "recipes"
NUM_CANDIDATES = 16
NUM_PACED = 6
SEARCHED_STEPS = 108
"""Of a whole trial of the full search and of ASHA; the trials that are timed take half as many."""
TRAIN: dict[str, Any] = {
    "kind": "train",
    "name": "candidate",
    "base": "artifact:tiny-base",
    "data": {"type": "corpus", "corpus": "artifact:bench-speeches"},
    "adapter": {"type": "lora", "rank": 16},
    "sequence_length_tokens": 256,
    "micro_batch_sequences": 8,
    "global_batch_tokens": 2048,
    "num_steps": 54,
    "learning_rate": 1e-2,
    "schedule": {"type": "cosine", "warmup_steps": 3},
    "optimizer": {"type": "adamw", "weight_decay": 0},
    "evaluate_every_steps": 6,
    "workers": {"num_workers": 1, "cpus_per_worker": 1},
}
SPACE = {
    "adapter.rank": {"type": "choice", "values": [4, 8, 16, 32]},
    "learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-1},
    "adapter.alpha": {"type": "multiple", "of": "adapter.rank", "times": [1, 2, 4]},
}
SAFE = {**SPACE, "learning_rate": {"type": "loguniform", "low": 1e-3, "high": 1e-2}}
"""For the trials that are timed, which all should come to their end."""
ASHA = {"type": "asha", "grace_steps": 6, "reduction_factor": 3}


def searched(inputs: dict[str, Any], folder: Path, **changes: Any) -> list[Any]:
    """The trials of a search that is run here and now, in `folder`."""
    from rayloom.artifacts.build import Build
    from rayloom.artifacts.store import Store
    from rayloom.specs.tune import TuneSpec
    from rayloom.tune.results import trial_of
    from rayloom.tune.run import run

    plain = {
        "kind": "tune", "name": folder.name, "train": TRAIN, "space": SPACE, "searcher": {"type": "random"},
        "scheduler": {"type": "none"}, "budget": {"num_trials": NUM_CANDIDATES},
    }  # fmt: skip
    place = Build(Store(str(folder)), folder / "artifact", folder / "work", inputs, folder, "0" * 12)
    place.directory.mkdir(parents=True)
    place.work.mkdir()
    run(TuneSpec.model_validate_json(json.dumps(plain | changes), strict=True), place)
    lines = (place.directory / "trials.jsonl").read_text().splitlines()
    return [trial_of(json.loads(line)) for line in lines]


def bare_seconds(inputs: dict[str, Any], folder: Path, points: list[dict[str, Any]]) -> list[float]:
    """Seconds of the same training, one after the other in one process that knows neither Ray nor a search."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_trained_bare, (TRAIN, inputs, folder, points))


def _trained_bare(
    plain: dict[str, Any], inputs: dict[str, Any], folder: Path, points: list[dict[str, Any]]
) -> list[float]:
    import torch

    from rayloom.specs.search.space import substituted
    from rayloom.specs.train import TrainSpec
    from rayloom.train.loop.loop import train
    from rayloom.train.prepare import job_of
    from rayloom.train.process_group import current_group

    torch.set_num_threads(1)
    whole = TrainSpec.model_validate(plain).model_dump(mode="json")
    parents = {path.removeprefix("train."): artifact for path, artifact in inputs.items()}
    group, seconds = current_group(torch.device("cpu")), []
    for number, values in enumerate(points):
        work = folder / str(number)
        work.mkdir(parents=True)
        job = job_of(TrainSpec.model_validate(substituted(whole, values)), parents, work, work / "out")
        started = time.perf_counter()
        train(job, group, lambda event: None)
        seconds.append(time.perf_counter() - started)
    return seconds


def pace(inputs: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Trials in sequence, without a search, and two at a time."""
    few: dict[str, Any] = {"budget": {"num_trials": NUM_PACED}, "space": SAFE}
    alone = searched(inputs, folder / "in-sequence", **few, resources={"max_concurrent_trials": 1})
    bare = bare_seconds(inputs, folder / "bare", [trial.values for trial in alone])
    together = searched(inputs, folder / "two-at-once", **few, resources={"max_concurrent_trials": 2})
    assert {trial.outcome for trial in (*alone, *together)} == {"finished"}
    # From one trial's end to the next one's: what lies between them is their cost too.
    later = (alone[-1].ended_at_seconds - alone[0].ended_at_seconds) / (NUM_PACED - 1)
    return {
        "overhead_seconds_per_trial": round(later - statistics.mean(bare[1:]), 2),
        "wall_ratio": round(wall_seconds(together) / wall_seconds(alone), 3),
        "seconds_in_sequence": round(wall_seconds(alone), 1),
        "seconds_two_at_once": round(wall_seconds(together), 1),
        "first_trial_seconds": round(alone[0].ended_at_seconds - alone[0].created_at_seconds, 1),
        "trial_seconds": round(later, 2),
        "bare_seconds": round(statistics.mean(bare[1:]), 2),
        "num_paced_trials": NUM_PACED,
        "steps_of_a_paced_trial": TRAIN["num_steps"],
    }


def wall_seconds(trials: list[Any]) -> float:
    """From the start of the first trial, its process' own start included, to the end of the last."""
    return float(max(trial.ended_at_seconds for trial in trials) - min(trial.created_at_seconds for trial in trials))


def halving(inputs: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A full random search, and ASHA over the same candidates."""
    whole = TRAIN | {"num_steps": SEARCHED_STEPS}
    full = searched(inputs, folder / "random", train=whole)
    asha = searched(inputs, folder / "asha", train=whole, scheduler=ASHA)
    assert [trial.values for trial in full] == [trial.values for trial in asha]
    best, second = losses(full)[:2]
    winner = min((trial for trial in full if trial.outcome == "finished"), key=lambda t: t.metrics["heldout_loss"])
    return {
        "steps_ratio": round(sum(t.step for t in asha) / sum(t.step for t in full), 4),
        "loss_ratio": round(losses(asha)[0] / best, 5),
        "median_over_best": round(statistics.median(losses(full)) / best, 4),
        "finds_one_of_the_two_best": losses(asha)[0] <= second,
        "best_loss": round(best, 4),
        "best_values": winner.values,
        "seconds_random": round(wall_seconds(full), 1),
        "seconds_asha": round(wall_seconds(asha), 1),
        "num_candidates": NUM_CANDIDATES,
        "steps_of_a_trial": SEARCHED_STEPS,
    }


def losses(trials: list[Any]) -> list[float]:
    """The trials' losses at their end, best first; one that failed or was stopped is infinite."""
    found = [t.metrics["heldout_loss"] if t.outcome == "finished" else math.inf for t in trials]
    return sorted(loss if math.isfinite(loss) else math.inf for loss in found)


def inputs_of_trials() -> dict[str, Any]:
    """tiny-base, and speeches in its tokens. Few are held out, so that measuring does not outweigh training."""
    from rayloom.artifacts.store import Store
    from rayloom.dispatch import load_job, run

    store = Store.beside(QUICKSTART)
    for name in ("import-web", "import-wiki", "import-news", "clean"):
        run(load_job(QUICKSTART / f"{name}.yaml"), store)
    base, _ = run(load_job(QUICKSTART / "pretrain.yaml"), store)
    run(load_job(RECIPES / "imports" / "speeches.yaml"), store)
    few = ["name=bench-speeches", "output.heldout_share=0.01"]
    corpus, _ = run(load_job(RECIPES / "clean-speeches.yaml", few), store)
    return {"train.base": base, "train.data.corpus": corpus}


PARTS = {"pace": pace, "halving": halving}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write the result to tests/bench/results/")
    parser.add_argument("--part", choices=list(PARTS), help="measure only this")
    options = parser.parse_args()
    # Engines write to standard output; the last line there is this program's own.
    shown = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    inputs = inputs_of_trials()
    base = inputs["train.base"].manifest
    result: dict[str, Any] = {
        "base": f"{base.name}, {num_parameters(inputs['train.base'].path):,} parameters",
        "tokens_of_a_step": TRAIN["global_batch_tokens"],
        "hardware": hardware(),
        "date": time.strftime("%Y-%m-%d"),
    }
    with tempfile.TemporaryDirectory() as folder:
        for part in [options.part] if options.part else PARTS:
            result |= PARTS[part](inputs, Path(folder) / part)
    if options.save:
        save("tune", result)
    for key, value in result.items():
        print(f"{key:28} {value}", file=shown)
    print(json.dumps(result), file=shown)


def num_parameters(folder: Path) -> int:
    from rayloom.tune.trials.trial import num_parameters

    return num_parameters(folder)


if __name__ == "__main__":
    sys.exit(main())
