"""Whether a control store answers: nothing there, plain text, TLS, and what is neither."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from rayloom.errors import ResourceError
from rayloom.observe.ports import check_answers

SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
TLS_ALERT = b"\x15\x03\x03\x00\x02\x02\x0a"


@contextmanager
def server(answer: bytes) -> Iterator[str]:
    """Answers one greeting with these bytes, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    ("answer", "uses_tls", "said"),
    [
        (SETTINGS, "0", None),
        (SETTINGS, "1", "This cluster does not speak TLS"),
        (TLS_ALERT, "1", None),
        (TLS_ALERT, "0", "This cluster speaks TLS, or is no Ray cluster.*RAY_USE_TLS=1"),
        (b"", "0", "This cluster speaks TLS, or is no Ray cluster"),
        (b"HTTP/1.1 400 Bad Request", "0", "or is no Ray cluster"),
    ],
)
def test_both_sides_must_speak_alike(
    answer: bytes, uses_tls: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_USE_TLS", uses_tls)
    with server(answer) as address:
        refused(lambda: check_answers(address), said)


def test_nothing_there_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    refused(lambda: check_answers(f"127.0.0.1:{port}"), "No Ray cluster answers")


def test_what_is_no_address_is_left_to_ray() -> None:
    check_answers("auto")


def refused(call: Callable[[], None], said: str | None) -> None:
    if said is None:
        call()
    else:
        with pytest.raises(ResourceError, match=said):
            call()
