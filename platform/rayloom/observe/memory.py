"""Main memory of this machine, or of the container that this process is in."""

from __future__ import annotations

from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")


def available_bytes(group: Path = _GROUP) -> int:
    """Memory that can be allocated without swapping, within the container's limit if it has one."""
    import psutil

    available = int(psutil.virtual_memory().available)
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    return available if limit is None or used is None else min(available, max(0, limit - used + _file_cache(group)))


def total_bytes(group: Path = _GROUP) -> int:
    """All memory of the machine, or the container's limit if that is lower."""
    import psutil

    total = int(psutil.virtual_memory().total)
    limit = _number(group / "memory.max")
    return total if limit is None else min(total, limit)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such cgroup file, or its value is `max`
        return None


def _file_cache(group: Path) -> int:
    """Bytes of the page cache, which the kernel counts as used and reclaims when memory is needed."""
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
