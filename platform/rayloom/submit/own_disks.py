"""Nodes of a local cluster that share no disk, and the bucket of a real S3 server through which they exchange files.

Each node has a private folder at /tmp, where all that it caches and writes goes, and shared memory of its own; both
are mounted in its namespaces (`own_networks`). Nodes share only what all machines of a cluster have: code and engines.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import rayloom
from rayloom.errors import ResourceError
from rayloom.observe.ports import free_port

BUCKET = "rayloom"
START_SECONDS = 30.0
HIDDEN = Path("/tmp")
"""The only folder into which nodes write; each has another one there."""


@dataclass(frozen=True)
class Bucket:
    """A bucket that moto's S3 server serves from this machine's end of the nodes' network, outside all nodes."""

    endpoint: str
    session: int
    """Process session id of the server."""

    @property
    def settings(self) -> dict[str, str]:
        """Environment variables with which Rayloom uses it as its store. The server takes any key."""
        return {
            "RAYLOOM_STORE": f"s3://{BUCKET}/store",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "rayloom",
            "AWS_SECRET_ACCESS_KEY": "rayloom",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


def start_bucket(host: str, folder: Path) -> Bucket:
    """Starts the server and makes the bucket; each request gets a line in `bucket.log`, which begins with its sender.

    Raises ResourceError if moto is not installed or the server does not answer.
    """
    if importlib.util.find_spec("moto") is None:
        fix = "Install it (`pip install 'moto[server]'`), or leave --own-disks out."
        raise ResourceError("A bucket for nodes without a shared disk needs the package moto", fix=fix)
    log, port = folder / "bucket.log", free_port()
    with log.open("ab") as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "--host", host, "--port", str(port)],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=lines,
            start_new_session=True,
        )
    bucket = Bucket(f"http://{host}:{port}", process.pid)
    request = urllib.request.Request(f"{bucket.endpoint}/{BUCKET}", method="PUT")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            direct.open(request, timeout=START_SECONDS).close()
        except OSError:
            time.sleep(0.1)
        else:
            return bucket
    process.kill()
    raise ResourceError("The S3 server did not start", where=str(log), fix="Its log says why.")


def environment(folder: Path) -> dict[str, str]:
    """Environment variables that send all that a node writes to its own disk. `folder`: the cluster's, in `HIDDEN`."""
    cache = folder / "cache"
    return {"TMPDIR": str(HIDDEN), "XDG_CACHE_HOME": str(cache), "RAYLOOM_CACHE": str(cache / "rayloom"),
            "HF_HOME": str(cache / "huggingface")}  # fmt: skip


def prepare(disk: Path, folder: Path) -> list[tuple[Path, Path]]:
    """The bind mounts, in order, that make `disk` the node's `HIDDEN`: code, packages and token inside, then itself."""
    mounts = []
    for kept in (folder / "token", *_code()):
        if kept.is_relative_to(HIDDEN):
            inside = disk / kept.relative_to(HIDDEN)
            inside.parent.mkdir(parents=True, exist_ok=True)
            if kept.is_dir():
                inside.mkdir(exist_ok=True)
            else:
                inside.touch()
            mounts.append((kept, inside))
    disk.chmod(0o1777)
    return [*mounts, (disk, HIDDEN)]


def _code() -> set[Path]:
    """The folders of Rayloom's code, of Python, and of its packages, also by links that lead to them."""
    paths = (Path(sys.prefix), Path(sys.base_prefix), Path(rayloom.__file__).parents[1])
    return {named for path in paths for named in (path.absolute(), path.resolve())}
