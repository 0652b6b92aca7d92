"""General, domain, task: what a middle stage on unlabelled text is worth: `make bench-stages`.

The recipe jobs/recipes/stages: an encoder goes on with masked words on film reviews that nobody labelled, then learns
whether sentences about films are positive, from 100, 500 and all labels; and the same from the encoder as it was. Each
at every seed, which also draws the labelled rows and the held-out ones, the same for both sides. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from hardware import hardware
from results_file import save

from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, run

ROOT = Path(__file__).parents[2]
STAGES = ROOT / "jobs/recipes/stages"
BASES = {"with_domain": "reviews-encoder", "without_domain": "minilm"}
EPOCHS: dict[int | None, int] = {100: 20, 500: 4, None: 2}
"""By number of labels; None: all."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=ROOT / ".rayloom", help="where models and data are, or come to")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--save", action="store_true", help="also write the result under tests/bench/results")
    options = parser.parse_args()
    os.environ["RAYLOOM_STORE"] = str(options.store)
    store = Store(str(options.store))
    imports = ROOT / "jobs/recipes/imports"
    files = (imports / "minilm.yaml", imports / "movie-reviews.yaml")
    stages = (STAGES / "domain-text.yaml", STAGES / "task-rows.yaml", STAGES / "domain.yaml")
    *_, rows, domain = [made(file, store) for file in (*files, *stages)]
    scores = {
        "all" if labels is None else str(labels): {
            side: [accuracy(side, labels, seed, store) for seed in options.seeds] for side in BASES
        }
        for labels in EPOCHS
    }
    result = {
        "hardware": hardware(),
        "date": time.strftime("%Y-%m-%d"),
        "seeds": options.seeds,
        "accuracy": {
            labels: {side: round(statistics.fmean(values), 4) for side, values in sides.items()}
            for labels, sides in scores.items()
        },
        "accuracy_by_seed": scores,
        "domain": {key: domain.manifest.metrics[key] for key in ("steps", "tokens", "seconds_training", "heldout")},
        "labelled_rows": rows.manifest.metrics,
    }
    if options.save:
        save("stages", result)
    print(json.dumps(result))


def made(file: Path, store: Store, *overrides: str) -> Artifact:
    return run(load_job(file, overrides), store)[0]


def accuracy(side: str, labels: int | None, seed: int, store: Store) -> float:
    """On held-out rows, after learning the task from so many labels."""
    overrides = {
        "name": f"sentences-{'all' if labels is None else labels}-{side.replace('_', '-')}-{seed}",
        "base": f"artifact:{BASES[side]}",
        "num_epochs": EPOCHS[labels],
        "seed": seed,
    } | ({} if labels is None else {"data.train_rows": labels})
    trained = made(STAGES / "task.yaml", store, *(f"{path}={value}" for path, value in overrides.items()))
    measured: dict[str, Any] = trained.manifest.metrics["heldout"]["heldout"]
    found = float(measured["after"]["accuracy"])
    print(f"{trained.manifest.name}: {found}", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
