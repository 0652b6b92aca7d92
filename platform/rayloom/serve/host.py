"""The processes that a service left behind on this machine."""

from __future__ import annotations

import psutil

_SERVICE_PROCESSES = ("VLLM::", "ray::ServeReplica", "ray::ProxyActor", "ray::ServeController")


def service_processes() -> list[str]:
    """Engines, replicas, proxies and controllers among the processes that this one started, each as `pid name`."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline()) or process.name()
        except psutil.NoSuchProcess:
            continue
        if process.status() != psutil.STATUS_ZOMBIE and title.startswith(_SERVICE_PROCESSES):
            found.append(f"{process.pid} {title[:60]}")
    return found
