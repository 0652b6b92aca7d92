"""Ports of this machine: whether one is free to listen on, and a free one."""

from __future__ import annotations

import socket

from rayloom.errors import ResourceError


def check_port(host: str, port: int, fix: str = "") -> None:
    """Raises ResourceError if the port cannot be listened on. `fix`: what to do if it is taken."""
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
            fix = fix or f"Stop what listens there, or choose another port with --set port={port + 1}."
            raise ResourceError(f"Port {port} is not free ({error.strerror})", where=host, fix=fix) from None


def is_port_free(host: str, port: int) -> bool:
    """Whether a socket can listen there now."""
    try:
        check_port(host, port)
    except ResourceError:
        return False
    return True


def free_port() -> int:
    """A port that is free on all addresses of this machine."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
