"""The Ray cluster that a command uses: the one at `RAY_ADDRESS`, or an embedded one that ends with the command.

An embedded cluster is private: it listens on loopback only, requires a token that is never written to disk, keeps its
files in a folder that is removed at exit, and gives the object store a small, fixed share of memory.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rayloom.errors import ResourceError
from rayloom.observe.ports import check_answers

GIB = 1 << 30
MAX_OBJECT_STORE_BYTES = 2 * GIB
OBJECT_STORE_SHARE = 0.2
WAITING_SLOTS = 6
"""Logical CPUs added to the real cores, for actors that mostly wait: controllers, proxies, the actor of an engine."""
_WAITING = "rayloom_waiting_slots"
"""Custom Ray resource of an embedded cluster that holds `WAITING_SLOTS`, for pipeline stages in other processes."""
MAX_TEMPORARY_PATH_BYTES = 44
"""A Unix socket's path has at most 107 bytes; Ray's session folder and the socket's name take 63 of them."""
STALE_SECONDS = 60.0
"""A younger folder without a lock may belong to a cluster that is starting."""

_PREFIX = "rayloom-ray-"
# Environment of an embedded cluster's processes. Variables that are set already take precedence.
EMBEDDED_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Ray reads it on Linux too, despite its name: with 0, the node's address is 127.0.0.1, not the network's.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "token",
    # Nothing announces that this machine will be taken away; a process that asks for it would start with each training.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


@dataclass(frozen=True)
class Session:
    """The cluster that this process is connected to."""

    address: str
    is_embedded: bool
    num_cores: int
    """Of an embedded cluster its real cores, without the waiting slots; of any other its CPUs."""
    ends_with_command: bool
    """Whether it is embedded in this process, or in that of the pipeline whose stage this is: it has no dashboard."""


def is_on_cluster() -> bool:
    """Whether jobs run on an existing cluster, in which this machine may be one node of many."""
    return "RAYLOOM_ON_CLUSTER" in os.environ or os.environ.get("RAY_ADDRESS", "local") not in ("", "local")


def connect(*, object_store_bytes: int | None = None) -> Session:
    """The cluster at `RAY_ADDRESS`, else an embedded one; later calls in this process give the same one.

    The size of the object store is used only by the call that starts an embedded cluster. Raises ResourceError if no
    cluster answers at `RAY_ADDRESS`, or if an embedded one cannot start.
    """
    address = os.environ.get("RAY_ADDRESS", "local")
    embedded = address == "local"
    if embedded:
        _set_environment()
    import ray

    if not ray.is_initialized():
        with _own_sigterm_handler():
            if embedded:
                _start_embedded(object_store_bytes or _object_store_share())
            else:
                _attach(address)
    gcs_address, offered = ray.get_runtime_context().gcs_address, ray.cluster_resources()
    return Session(gcs_address, embedded, _usable_cores() if embedded else _cores_of(offered), _WAITING in offered)


@contextlib.contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """Restores the process's own SIGTERM handler, if it has one, after the block. `ray.init` installs one that ends the
    process at once; `rayloom` handles the signal like Ctrl-C, so that training saves a checkpoint first."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if before not in (signal.SIG_DFL, None) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def disconnect() -> None:
    """Leaves the cluster if this process is connected; an embedded one stops, and its files are removed at exit."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def _set_environment() -> None:
    for name, value in EMBEDDED_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    # Ray reads these when it is imported, which may have happened before: set or reload them.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    ray_constants.ENABLE_RAY_CLUSTER = os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "1"
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "1"
    # Joined to Ray's own folder, which an absolute path replaces.
    ray_constants.SETUP_WORKER_FILENAME = str(Path(__file__).with_name("ray_setup_worker.py"))


def _start_embedded(object_store_bytes: int) -> None:
    import ray

    _remove_stale()
    folder, lock = _private_folder()
    try:
        ray.init(
            address="local",
            num_cpus=_usable_cores() + WAITING_SLOTS,
            resources={_WAITING: WAITING_SLOTS},
            object_store_memory=object_store_bytes,
            include_dashboard=False,
            _temp_dir=str(folder / "r"),
            **_quiet(),
        )
    except (OSError, RuntimeError, ValueError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        fix = "`rayloom doctor` shows what is short: memory, disk under the temporary folder, or file handles."
        raise ResourceError(f"Ray did not start here: {error}", where=str(folder), fix=fix) from error
    atexit.register(_end_embedded, folder, lock)


def _attach(address: str) -> None:
    import ray

    if "://" in address:
        what = "RAY_ADDRESS names a client or dashboard port, through which Rayloom's engines cannot run"
        fix = "Give HOST:PORT of the cluster's head (6379), or use `rayloom submit --address URL`."
        raise ResourceError(what, where=address, fix=fix)
    check_answers(address)
    os.environ.setdefault("RAY_AUTH_MODE", "token" if _has_token() else "disabled")
    try:
        _check_welcome(address)
        ray.init(address=address, **_quiet())
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        fix = "Start or name the right cluster (and its RAY_AUTH_TOKEN), or unset RAY_ADDRESS to run on this machine."
        raise ResourceError(f"No Ray cluster lets us in: {error}", where=f"RAY_ADDRESS={address}", fix=fix) from error


def _check_welcome(address: str) -> None:
    """Raises ResourceError if the cluster rejects our token or runs another version of Ray; Ray would not say which."""
    import grpc  # type: ignore[import-untyped]
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.gcs_service_pb2 import CheckAliveRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    if not address.rpartition(":")[2].isdigit():
        return
    where = f"RAY_ADDRESS={address}"
    with init_grpc_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            there = NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), timeout=10).ray_version
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                return  # `ray.init` retries for longer
            what = "The cluster rejects this token" if _has_token() else "The cluster requires a token"
            fix = "Set RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the cluster's."
            raise ResourceError(what, where=where, fix=fix) from None
    if there != ray.__version__:
        fix = "Install the cluster's version here, or this one there; cluster/ has images with the tested set."
        raise ResourceError(f"The cluster runs Ray {there}, and here is {ray.__version__}", where=where, fix=fix)


def _has_token() -> bool:
    named = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    return named or Path("~/.ray/auth_token").expanduser().exists()


def _quiet() -> dict[str, object]:
    # RAY_LOG_TO_DRIVER, if set, still decides whether the workers' output is shown.
    wanted = None if "RAY_LOG_TO_DRIVER" in os.environ else False
    return {"logging_level": logging.ERROR, "log_to_driver": wanted}


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def _cores_of(offered: Mapping[str, float]) -> int:
    return int(offered.get("CPU", 1) - offered.get(_WAITING, 0))


def _object_store_share() -> int:
    from ray._common.utils import get_system_memory

    shared_memory = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else MAX_OBJECT_STORE_BYTES
    return int(min(MAX_OBJECT_STORE_BYTES, get_system_memory() * OBJECT_STORE_SHARE, shared_memory * 0.8))


# -- the embedded cluster's folder: sessions, logs, spilled objects ----------------------------------------------------


def _temporary_root() -> Path:
    root = Path(tempfile.gettempdir())
    inside = len(f"/{_PREFIX}12345678/r")
    return root if len(bytes(root)) + inside <= MAX_TEMPORARY_PATH_BYTES else Path("/tmp")


def _private_folder() -> tuple[Path, IO[str]]:
    """A new folder that only this user can enter, and a lock that is held while its cluster is alive.

    Ray's own folder inside it is readable by everyone.
    """
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_temporary_root()))
    lock = (folder / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def _end_embedded(folder: Path, lock: IO[str]) -> None:
    import ray

    ray.shutdown()
    lock.close()
    shutil.rmtree(folder, ignore_errors=True)


def _remove_stale() -> None:
    """Removes the folders of killed commands: logs, and spilled objects, which can be large."""
    for folder in _folders_of_this_user():
        with contextlib.suppress(OSError), (folder / "lock").open("r+") as lock:
            if time.time() - folder.stat().st_mtime >= STALE_SECONDS:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def _folders_of_this_user() -> Iterator[Path]:
    for folder in _temporary_root().glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == os.getuid():
                yield folder
