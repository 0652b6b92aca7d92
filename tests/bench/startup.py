"""What light commands take before they answer, beside Python with nothing but pydantic imported, in turns.

CPU seconds are the median of `--rounds`, since a busy machine changes them less than the time on the clock, which is
the least of them. Prints, last, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from hardware import hardware
from results_file import save

ROOT = Path(__file__).parents[2]
QUICKSTART, TEMPLATES = ROOT / "jobs" / "quickstart", ROOT / "platform" / "rayloom" / "templates"
JOBS = {
    "import": QUICKSTART / "import-wiki.yaml",
    "clean": QUICKSTART / "clean.yaml",
    "generate": TEMPLATES / "generate.yaml",
    "train": QUICKSTART / "finetune.yaml",
    "tune": QUICKSTART / "tune.yaml",
    "evaluate": QUICKSTART / "evaluate.yaml",
    "compare": TEMPLATES / "compare.yaml",
    "predict": TEMPLATES / "predict.yaml",
    "merge": QUICKSTART / "merge.yaml",
    "quantize": QUICKSTART / "quantize.yaml",
    "serve": QUICKSTART / "serve.yaml",
    "pipeline": QUICKSTART / "pipeline.yaml",
}
"""A file of each kind."""
RAYLOOM = ("-m", "rayloom")
COMMANDS: dict[str, tuple[str, ...]] = {
    "python": ("-c", "pass"),
    "pydantic": ("-c", "from pydantic import BaseModel"),
    "help": (*RAYLOOM, "--help"),
    "explain": (*RAYLOOM, "explain", "train.adapter.rank"),
    **{f"check_{kind}": (*RAYLOOM, "check", str(file)) for kind, file in JOBS.items()},
}


def measured(arguments: tuple[str, ...]) -> tuple[float, float]:
    """CPU seconds and seconds on the clock of one start."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--save", action="store_true", help="write the result to tests/bench/results/")
    options = parser.parse_args()
    for arguments in COMMANDS.values():
        measured(arguments)  # its bytecode is then written
    rounds = [{name: measured(arguments) for name, arguments in COMMANDS.items()} for _ in range(options.rounds)]
    result = {
        "cpu_seconds": {name: round(statistics.median(each[name][0] for each in rounds), 3) for name in COMMANDS},
        "seconds": {name: round(min(each[name][1] for each in rounds), 3) for name in COMMANDS},
        "rounds": options.rounds,
        "hardware": hardware(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if options.save:
        save("startup", result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
