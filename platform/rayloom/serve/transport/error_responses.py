"""Error answers in the form that OpenAI's clients read."""

from __future__ import annotations

import json
from typing import Any

from rayloom.serve.transport.asgi_call import Headers

INVALID, AUTHENTICATION, RATE, SERVER = (
    "invalid_request_error",
    "authentication_error",
    "rate_limit_error",
    "server_error",
)


class Refusal(Exception):  # noqa: N818 (an answer, not a defect)
    """A request that is answered with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.param = status, message, kind, code, param
        self.retry_after_seconds = retry_after_seconds

    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", b"application/json")]
        if self.retry_after_seconds is not None:
            headers.append((b"retry-after", str(max(1, round(self.retry_after_seconds))).encode()))
        if self.status == 415:
            headers.append((b"accept-encoding", b"identity"))
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers

    def body(self, request_id: str) -> bytes:
        return error_body(self.message, self.kind, self.code, self.param, request_id)


def error_body(message: str, kind: str, code: str | None, param: str | None, request_id: str) -> bytes:
    error = {"message": message, "type": kind, "param": param, "code": code, "request_id": request_id}
    return json.dumps({"error": error}).encode()


def as_openai_error(status: int, body: bytes, request_id: str, missing_path: str) -> bytes:
    """An engine's error in OpenAI's form: vLLM gives the status as `code` and a class name as `type`.

    `missing_path`: the message where the engine has no such path, for its own is only "Not Found".
    """
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    error: Any = answer.get("error", answer) if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    if answer == {"detail": "Not Found"}:
        message = missing_path
    if not isinstance(message, str):
        message = body[:500].decode("utf-8", "replace") or f"The engine answered {status}."
    param = error.get("param") if isinstance(error, dict) else None
    kind = SERVER if status >= 500 else INVALID
    return error_body(message, kind, None, param if isinstance(param, str) else None, request_id)


def error_event(message: str, code: str, request_id: str) -> bytes:
    """The last event of a stream that cannot go on, so that a client does not take it for a whole answer."""
    return b"data: " + error_body(message, SERVER, code, None, request_id) + b"\n\n"


def header(headers: Headers, name: bytes) -> str | None:
    """The last value of a header; names are lower case in ASGI."""
    values = [value for key, value in headers if key == name]
    return values[-1].decode("latin-1") if values else None
