"""Main memory of this machine."""

from __future__ import annotations

from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")


def available_bytes(group: Path = _GROUP) -> int:
    """Memory that can be taken without swapping, also inside a container with a limit of its own."""
    import psutil

    available = int(psutil.virtual_memory().available)
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no such group, or the limit is `max`
        return available
    return min(available, max(0, limit - used))
