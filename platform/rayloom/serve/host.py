"""What this machine has for a service: memory, a free port, and the processes that the service left behind."""

from __future__ import annotations

import socket

import psutil

from rayloom.errors import ResourceError

_SERVICE_PROCESSES = ("VLLM::", "ray::ServeReplica", "ray::ProxyActor", "ray::ServeController")


def check_port(host: str, port: int) -> None:
    """Raises ResourceError where nothing can listen there."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        fix = "Use 127.0.0.1, or 0.0.0.0 for every address of this machine."
        raise ResourceError("There is no such address to listen on", where=host, fix=fix) from None
    family, kind, _, _, address = addresses[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except PermissionError:
            raise ResourceError(f"Port {port} may not be listened on", where=host, fix="Use one above 1023.") from None
        except OSError as error:
            fix = f"Stop what listens there, or choose another port with --set port={port + 1}."
            raise ResourceError(f"Port {port} is not free ({error.strerror})", where=host, fix=fix) from None


def is_port_free(host: str, port: int) -> bool:
    try:
        check_port(host, port)
    except ResourceError:
        return False
    return True


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
