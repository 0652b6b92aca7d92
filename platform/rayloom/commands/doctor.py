"""`rayloom doctor`: what works on this machine, and what to do about the rest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict

from rich.text import Text

from rayloom.commands import diagnosis
from rayloom.commands.artifacts import store_here
from rayloom.commands.diagnosis import Finding
from rayloom.commands.output import console, emit_json
from rayloom.errors import ResourceError
from rayloom.observe.environment import lock_file
from rayloom.observe.progress import say

_MARKS = {"ok": ("✓", "green"), "note": ("·", "dim"), "warning": ("!", "yellow"), "missing": ("✗", "red")}


def doctor(options: argparse.Namespace) -> int:
    """Prints one line for each check. Returns 4 if something that is needed is missing."""
    if options.lock is not None:
        sys.stdout.write(f"{lock_file(options.lock)}\n")
        return 0
    store = store_here()
    checks: tuple[Callable[[], Finding], ...] = (
        diagnosis.python,
        diagnosis.packages,
        diagnosis.torch_build,
        diagnosis.processor,
        diagnosis.gpus,
        diagnosis.ray_cluster,
        diagnosis.memory,
        diagnosis.shared_memory,
        diagnosis.file_handles,
        lambda: diagnosis.store_writable(store),
        lambda: diagnosis.disk("disk of the store", store.log_directory),
        diagnosis.temporary_disk,
        diagnosis.ports,
        diagnosis.hub,
        diagnosis.compiler,
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
