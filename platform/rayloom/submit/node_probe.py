"""What a job will need of a node, tried out on it: versions, clock, disk, and everything that is done with the store.

Each node first writes what others then read: in a store that only some nodes reach, or that each has for itself, the
first to notice would otherwise be a worker in the middle of the job.
"""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rayloom.artifacts.store import Store
from rayloom.errors import ResourceError, unwrapped
from rayloom.observe.environment import flavour, installed_versions, requirements

PART_BYTES = 5 << 20
"""The smallest part of a multipart upload that S3 accepts; two are tried."""
LEAST_FREE_BYTES = 1 << 30
MOST_SKEW_SECONDS = 60.0
"""S3 refuses requests whose time is 15 minutes off; leases and logs are hard to read from less."""
SMALL_NAME, LARGE_NAME = "small", "large"


@dataclass(frozen=True)
class NodeReport:
    """What one node found when it wrote."""

    versions: Mapping[str, str]
    """Of Python and of the packages that Rayloom requires."""
    time: float
    free_bytes: int
    cache: str
    """The folder whose disk has so many free bytes."""
    failure: str = ""
    """Why it could not write to the store; empty if it could."""


@dataclass(frozen=True)
class NodeAnswer:
    """A node's report, and when it was asked and answered by the clock of the node that asked."""

    node: str
    asked: float
    answered: float
    report: NodeReport


def written(store: Store, folder: str, name: str) -> NodeReport:
    """Writes files of this node to `folder` in the store: a small one, renamed as manifests are, and one in parts."""
    failure = ""
    place = f"{folder}/{name}"
    files = store.filesystem
    try:
        files.makedirs(place, exist_ok=True)
        files.pipe_file(f"{place}/.{SMALL_NAME}", name.encode())
        files.mv(f"{place}/.{SMALL_NAME}", f"{place}/{SMALL_NAME}")
        if not store.is_local:
            with files.open(f"{place}/{LARGE_NAME}", "wb", block_size=PART_BYTES) as large:
                large.write(bytes(PART_BYTES + 1))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is said of this node
        failure = _reason(error)
    store.cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(store.cache).free
    return NodeReport(versions_here(), time.time(), free, str(store.cache), failure)


def unseen(store: Store, folder: str, names: Sequence[str]) -> str:
    """Why this node cannot list and read what the named nodes wrote; empty if it can."""
    files = store.filesystem
    try:
        files.invalidate_cache()
        listed = {path.rstrip("/").rpartition("/")[2] for path in files.ls(folder, detail=False)}
        missing = [name for name in names if name not in listed]
        missing += [name for name in names if name in listed and _read(store, f"{folder}/{name}") != name]
    except Exception as error:  # noqa: BLE001 - as above
        return _reason(error)
    return "it does not see what other nodes wrote" if missing else ""


def _read(store: Store, place: str) -> str:
    return str(store.filesystem.cat_file(f"{place}/{SMALL_NAME}").decode())


def _reason(error: Exception) -> str:
    return str(unwrapped(error)).splitlines()[0]


def versions_here() -> dict[str, str]:
    """The versions of Python and of the packages that Rayloom requires, on this node."""
    installed = installed_versions()
    names = {requirement.name.lower() for requirement in requirements(flavour(installed))}
    return {"Python": platform.python_version()} | {n: v for n, v in sorted(installed.items()) if n in names}


def check_answers(here: Mapping[str, str], answers: Sequence[NodeAnswer], store: Store) -> None:
    """Raises ResourceError with a sentence for each node that cannot do its part. `here`: the versions of this node."""
    problems = [(answer.node, what, fix) for answer in answers for what, fix in _problems(here, answer, store)]
    if problems:
        what = "; ".join(f"{node} {what}" for node, what, _ in problems)
        raise ResourceError(f"Nodes cannot do the job: {what}", where=store.uri, fix=problems[0][2])


def _problems(here: Mapping[str, str], answer: NodeAnswer, store: Store) -> Iterator[tuple[str, str]]:
    report = answer.report
    if report.failure:
        fix = "Check RAYLOOM_STORE, credentials, network and free space on that node."
        yield f"cannot write to the store: {report.failure}".rstrip("."), fix
    others = [f"{name} {report.versions.get(name, '(none)')} instead of {version}" for name, version in here.items()
              if report.versions.get(name) != version]  # fmt: skip
    if others:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        yield f"has other versions: {shown}", "Use one image of cluster/, or its lock, on every node."
    skew = max(answer.asked - report.time, report.time - answer.answered, 0.0)
    if skew > MOST_SKEW_SECONDS:
        yield f"has a clock that is {skew:.0f} s off", "Set its clock by NTP."
    if report.free_bytes < LEAST_FREE_BYTES and not store.is_local:
        what = f"has only {report.free_bytes / 1e9:.1f} GB free under {report.cache}"
        yield what, "Free space there, or name another folder with RAYLOOM_CACHE."
