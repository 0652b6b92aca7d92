"""Ports of this machine: whether one is free to listen on, and a free one."""

from __future__ import annotations

import os
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


# Checks that a Ray cluster's GCS (global control store) answers at an address, with or without TLS as this process.
#
# Ray itself would try for a minute, and its error would name neither cause.

ANSWERS_WITHIN_SECONDS = 10.0
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_SETTINGS_FRAME = 4


def check_answers(address: str) -> None:
    """Raises ResourceError if nothing listens, or if only one of the cluster and this process uses TLS."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    where = f"RAY_ADDRESS={address}"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN_SECONDS) as connection:
            is_plain = _speaks_plain_text(connection)
    except OSError as error:
        fix = "Start that cluster, name the right one, or unset RAY_ADDRESS to run on this machine."
        raise ResourceError(f"No Ray cluster answers: {error}", where=where, fix=fix) from error
    uses_tls = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
    if uses_tls and is_plain:
        raise ResourceError(
            "This cluster does not speak TLS", where=where, fix="Unset RAY_USE_TLS, or turn it on there."
        )
    if not uses_tls and is_plain is False:
        fix = "Set RAY_USE_TLS=1 and RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY and RAY_TLS_CA_CERT as on its nodes."
        raise ResourceError("This cluster speaks TLS, or is no Ray cluster", where=where, fix=fix)


def _speaks_plain_text(connection: socket.socket) -> bool | None:
    """Whether a gRPC server answers an HTTP/2 preface without TLS; None if it does not answer in time."""
    try:
        connection.sendall(_HTTP2_GREETING)
        answer = connection.recv(9)
    except TimeoutError:
        return None
    except ConnectionError:
        return False
    return len(answer) > 3 and answer[3] == _SETTINGS_FRAME
