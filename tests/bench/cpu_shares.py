"""Where the processor's time goes: seconds by kind of process among those that this program started."""

from __future__ import annotations

from collections import Counter

import psutil

KINDS = {
    "ray::ProxyActor": "proxy",
    "ray::ServeController": "controller",
    "VLLM::": "engine",
    "ray::ServeReplica": "replica",
}


def cpu_seconds() -> Counter[str]:
    """Since each process began; `client` is this program."""
    found: Counter[str] = Counter()
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            times, title = process.cpu_times(), " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        found["client" if process == me else kind_of(title)] += times.user + times.system
    return found


def kind_of(title: str) -> str:
    if title.startswith("ray::ServeReplica") and title.endswith(":gateway"):
        return "gateway"
    if "vllm.entrypoints" in title:
        return "server"
    return next((kind for start, kind in KINDS.items() if title.startswith(start)), "other")


def spent(before: Counter[str], after: Counter[str]) -> dict[str, float]:
    """Seconds between two looks, the largest first."""
    return {kind: round(seconds, 2) for kind, seconds in (after - before).most_common() if seconds >= 0.01}
