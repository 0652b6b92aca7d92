"""What a benchmark's numbers hold for."""

from __future__ import annotations

import os
from pathlib import Path


def hardware() -> str:
    """Processor and usable cores, fit for a file's name: `amd-epyc-2-cores`."""
    named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = named[0].partition(":")[2].strip() if named else "cpu"
    words = "".join(letter if letter.isalnum() else " " for letter in model.lower()).split()
    return "-".join([*words, str(len(os.sched_getaffinity(0))), "cores"])
