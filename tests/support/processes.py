"""Processes by what they call themselves; others may end while they are looked for."""

from __future__ import annotations

import psutil


def title_of(process: psutil.Process) -> str:
    """The command line as one text; empty of a process that ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # zombies too
        return ""


def processes_below(title: str, pid: int | None = None) -> list[psutil.Process]:
    """All below this process, or that of `pid`, in whose title these words are."""
    return [process for process in psutil.Process(pid).children(recursive=True) if title in title_of(process)]
