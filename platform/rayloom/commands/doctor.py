"""`rayloom doctor`: checks what Rayloom needs on this machine, and says what to do about what is missing."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import resource
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.text import Text

from rayloom.artifacts.store import Store
from rayloom.commands.artifacts import store_here
from rayloom.commands.output import console, emit_json, size
from rayloom.errors import ResourceError
from rayloom.observe.environment import (
    flavour,
    installed_versions,
    lock_file,
    locked_versions,
    requirements,
    supported_pythons,
    unlike_lock,
    unmet,
)
from rayloom.observe.memory import available_bytes, total_bytes
from rayloom.observe.ports import check_answers, is_port_free
from rayloom.observe.progress import say

_MARKS = {"ok": ("✓", "green"), "note": ("·", "dim"), "warning": ("!", "yellow"), "missing": ("✗", "red")}


def doctor(options: argparse.Namespace) -> int:
    """Prints one line for each check. Returns 4 if something required is missing."""
    if options.lock is not None:
        sys.stdout.write(f"{lock_file(options.lock)}\n")
        return 0
    store = store_here()
    checks: tuple[Callable[[], Finding], ...] = (
        python,
        packages,
        torch_build,
        processor,
        gpus,
        ray_cluster,
        memory,
        shared_memory,
        file_handles,
        lambda: store_writable(store),
        lambda: disk("disk of the store", store.log_directory),
        temporary_disk,
        ports,
        hub,
        compiler,
    )
    findings = []
    for check in checks:
        finding = check()
        findings.append(finding)
        if not options.json:
            _print(finding)
    missing = [finding for finding in findings if finding.state == "missing"]
    if options.json:
        emit_json([asdict(finding) for finding in findings])
    elif missing:
        say(f"{len(missing)} of {len(findings)} things that Rayloom needs are missing.")
    else:
        say("Everything that Rayloom needs is here.")
    return ResourceError.exit_code if missing else 0


def _print(finding: Finding) -> None:
    mark, style = _MARKS[finding.state]
    line = Text(f"{mark} ", style=style).append(f"{finding.name:<18} ", style="bold").append(finding.said, style="")
    console().print(line)
    if finding.fix:
        console().print(Text(f"  {'':<18} {finding.fix}", style=style))


# The checks of `rayloom doctor`: each function returns one finding.

GB = 10**9
QUICKSTART_MEMORY_BYTES = 10 * GB
LEAST_MEMORY_BYTES = 4 * GB
WANTED_DISK_BYTES = 10 * GB
LEAST_DISK_BYTES = 2 * GB
WANTED_SHARED_MEMORY_BYTES = 2 * GB
WANTED_FILE_HANDLES = 4096
_INSTALL = (
    "`make setup` installs the tested packages; outside a checkout `rayloom doctor --lock cpu` names the list for pip."
)
PORTS = {8000: "serve", 8265: "Ray's dashboard"}


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    name: str
    state: Literal["ok", "note", "warning", "missing"]
    said: str
    fix: str = ""


def python() -> Finding:
    version = platform.python_version()
    supported = supported_pythons()
    if version in supported:
        return Finding("Python", "ok", version)
    return Finding("Python", "missing", f"{version}, and Rayloom is for {supported}", f"Install a Python {supported}.")


def packages() -> Finding:
    """Compares installed packages with the package's requirements, then with the lock file if it is installed."""
    installed = installed_versions()
    extra = flavour(installed)
    problems = unmet(requirements(extra), installed)
    if problems:
        return Finding("packages", "missing", _few(problems), _INSTALL)
    locked = locked_versions(extra)
    differences = unlike_lock(locked, installed)
    if differences:
        fix = f"They meet what Rayloom asks for, but were not tested together. {_INSTALL}"
        return Finding("packages", "warning", _few(differences), fix)
    summary = f"all {len(locked)} as in the {extra} lock" if locked else f"all that the {extra} extra asks for"
    return Finding("packages", "ok", summary)


def _few(lines: list[str]) -> str:
    return ", ".join(lines[:6]) + (f" and {len(lines) - 6} more" if len(lines) > 6 else "")


def torch_build() -> Finding:
    """torch and torchvision must be of the same build: otherwise transformers fails without naming either."""
    installed = installed_versions()
    version = installed.get("torch")
    if version is None:
        return Finding("torch", "missing", "not installed", _INSTALL)
    other = installed.get("torchvision")
    if "+cpu" in version and other is not None and "+cpu" not in other:
        fix = "Uninstall torchvision; nothing in Rayloom needs it."
        return Finding("torch", "missing", f"{version} beside torchvision {other}, which is built for CUDA", fix)
    return Finding("torch", "ok", version)


def processor() -> Finding:
    """The cores that this process may use, and the CPU instructions that speed up bf16 and INT8."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    except OSError:
        flags = set()
    fast = {"bf16": {"avx512_bf16", "amx_bf16"}, "INT8": {"avx512_vnni", "avx_vnni", "amx_int8"}}
    named = [name for name, wanted in fast.items() if flags & wanted]
    cores = len(os.sched_getaffinity(0))
    summary = f"{cores} cores, fast {' and '.join(named)}" if named else f"{cores} cores"
    if cores < 2:
        fix = "The quickstart's pretraining wants two workers; ask for one with --set workers.num_workers=1."
        return Finding("processor", "warning", summary, fix)
    return Finding("processor", "ok", summary)


def gpus() -> Finding:
    if "torch" not in installed_versions():
        return Finding("GPUs", "note", "not looked for without torch")
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if names:
        return Finding("GPUs", "ok", ", ".join(names))
    if Path("/dev/nvidia0").exists():
        fix = "Install cluster/requirements-gpu.txt, and a driver for its CUDA version."
        return Finding("GPUs", "warning", "there is one, but this torch cannot use it", fix)
    return Finding("GPUs", "note", "none; everything runs on the processor")


def ray_cluster() -> Finding:
    version = importlib.metadata.version("ray") if "ray" in installed_versions() else None
    if version is None:
        return Finding("Ray", "missing", "not installed", _INSTALL)
    address = os.environ.get("RAY_ADDRESS", "")
    if not address or address == "local":
        return Finding("Ray", "ok", f"{version}; RAY_ADDRESS is not set, so each command starts its own cluster here")
    try:
        check_answers(address.rpartition("://")[2])
    except ResourceError as error:
        return Finding("Ray", "missing", f"{version}; {error.what} at RAY_ADDRESS={address}", error.fix)
    return Finding("Ray", "ok", f"{version}; a cluster answers at {address}")


def memory() -> Finding:
    available, total = available_bytes(), total_bytes()
    summary = f"{size(available)} free of {size(total)}"
    if total < LEAST_MEMORY_BYTES:
        return Finding("memory", "missing", summary, f"Rayloom's engines need at least {size(LEAST_MEMORY_BYTES)}.")
    if available < QUICKSTART_MEMORY_BYTES:
        fix = f"The quickstart takes up to {size(QUICKSTART_MEMORY_BYTES)}: end other programs, or choose smaller jobs."
        return Finding("memory", "warning", summary, fix)
    return Finding("memory", "ok", summary)


def shared_memory() -> Finding:
    folder = Path("/dev/shm")
    free = shutil.disk_usage(folder).free if folder.is_dir() else 0
    if free < WANTED_SHARED_MEMORY_BYTES:
        fix = "Ray then keeps its objects in files, which is slow; in a container, start it with --shm-size=4g."
        return Finding("shared memory", "warning", f"{size(free)} free", fix)
    return Finding("shared memory", "ok", f"{size(free)} free")


def file_handles() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < WANTED_FILE_HANDLES:
        fix = f"`ulimit -n {max(WANTED_FILE_HANDLES, min(hard, 65536))}` before running many workers."
        return Finding("file handles", "warning", f"{soft} (up to {hard})", fix)
    return Finding("file handles", "ok", str(soft))


def store_writable(store: Store) -> Finding:
    """Writes, reads back and removes one small object, and the store's folder if it was not there."""
    probe = f"{store.root}/.doctor-{uuid.uuid4().hex}"
    was_there = store.filesystem.exists(store.root)
    try:
        store.filesystem.makedirs(store.root, exist_ok=True)
        store.filesystem.pipe_file(probe, b"rayloom")
        same = store.filesystem.cat_file(probe) == b"rayloom"
        store.filesystem.rm_file(probe)
        if not was_there:
            store.filesystem.rmdir(store.root)
    except OSError as error:
        fix = "Name a folder or bucket that you may write to with RAYLOOM_STORE."
        return Finding("store", "missing", f"{store.uri}: {error}", fix)
    if not same:
        return Finding("store", "missing", f"{store.uri}: what was written did not come back", "Check that storage.")
    return Finding("store", "ok", f"{store.uri}, {len(store.names())} names")


def disk(name: str, folder: Path) -> Finding:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    summary = f"{size(free)} free at {existing}"
    if free < LEAST_DISK_BYTES:
        return Finding(name, "missing", summary, "Free some; `rayloom artifacts gc` shows what can go.")
    if free < WANTED_DISK_BYTES:
        return Finding(name, "warning", summary, f"The quickstart wants {size(WANTED_DISK_BYTES)} with its packages.")
    return Finding(name, "ok", summary)


def temporary_disk() -> Finding:
    return disk("temporary disk", Path(tempfile.gettempdir()))


def ports() -> Finding:
    taken = [f"{port} ({use})" for port, use in PORTS.items() if not is_port_free("127.0.0.1", port)]
    if taken:
        fix = "Give a serve job another port with `--set port=…`; a cluster of your own may be using these."
        return Finding("ports", "warning", f"in use: {', '.join(taken)}", fix)
    return Finding("ports", "ok", f"{', '.join(map(str, PORTS))} are free")


def hub() -> Finding:
    """Whether there is a token for gated models; the token itself is never shown."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    endpoint = os.environ.get("HF_ENDPOINT", "the public hub")
    if os.environ.get("HF_TOKEN") or (home / "token").is_file():
        return Finding("model hub", "ok", f"{endpoint}, with a token")
    return Finding("model hub", "note", f"{endpoint}, without a token: gated models need HF_TOKEN")


def compiler() -> Finding:
    program = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if program:
        return Finding("C++ compiler", "ok", program)
    return Finding("C++ compiler", "note", "none; only serving with `compiled: true` needs one (g++)")
