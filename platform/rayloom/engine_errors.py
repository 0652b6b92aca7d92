"""Finds the cause in the errors of engines and object stores. No other module parses them.

- An exception that wraps others: `causes` gives all of them, `reported_by_ray` those from other processes.
- An exception from another process, whose class may be a copy: `is_out_of_memory`, `is_lost_process` and
  `is_consequence` recognise it by class name or text, without importing an engine.
- An exception of an object store's client, also not imported: `lacks_credentials`, `is_unreachable_store`,
  `refused_by_store`; `refusal_in` reads the text of a server's answer.
- The output of a process: `printed_cause`, and `reported_cause` for Ray Serve's message about a replica.
- The error file that Ray Tune writes for a trial whose process died: `ray_account`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_RAY_ATTRIBUTES = ("cause", "health_check_failure", "controller_failure")
"""Attributes in which errors of Ray and Ray Train keep the error that they wrap (`worker_failures` keeps several)."""
_MEMORY_SIGNS = ("OutOfMemoryError", "MemoryError", "can't allocate memory", "CUDA out of memory")
_LOST_PROCESS_SIGNS = (
    "WorkerHealthCheck", "ActorDied", "ActorUnavailable", "WorkerCrashed", "NodeDied", "Preemption",
)  # fmt: skip
_CONSEQUENCE_SIGNS = ("Connection closed by peer", "Connection reset by peer", "NCCL", "gloo")
_CREDENTIALS_SIGNS = ("NoCredentials", "PartialCredentials", "DefaultCredentialsError", "TokenRetrievalError")
_UNREACHABLE_SIGNS = (
    "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError",
    "ClientConnectorError", "ServerDisconnectedError",
)  # fmt: skip
_RAISED = re.compile(r"(?:^|[\s:])((?:\w+\.)*[A-Z]\w*(?:Error|Exception)): (?P<text>\S.*)$")
_PRINTED_CONSEQUENCES = (
    "Engine core initialization failed", "EngineCore encountered", "See root cause", "cancelled", "EngineDeadError",
    "RayTaskError", "Failed to create vLLM engine config",
)  # fmt: skip
CAUSE = "The engine did not start: "
"""Prefix of a replica's own error message, by which it is found in Ray Serve's message."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all errors that it wraps, breadth first, each once."""
    waiting, seen = [error], set()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [*_wrapped_by_ray(current), *(e for e in (current.__cause__, current.__context__) if e is not None)]


def reported_by_ray(error: BaseException) -> Iterator[BaseException]:
    """The errors of other processes that Ray wrapped in this one, innermost first, then the error itself."""
    for inner in _wrapped_by_ray(error):
        yield from reported_by_ray(inner)
    yield error


def _wrapped_by_ray(error: BaseException) -> list[BaseException]:
    failures = getattr(error, "worker_failures", None)
    wrapped = list(failures.values()) if isinstance(failures, dict) else []
    wrapped += [getattr(error, name, None) for name in _RAY_ATTRIBUTES]
    return [inner for inner in wrapped if isinstance(inner, BaseException)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine ran out of memory: Python's error, torch's, or Ray's for a killed worker."""
    return _shows(error, _MEMORY_SIGNS)


def is_lost_process(error: BaseException) -> bool:
    """Whether a worker process or a node was lost."""
    return _shows(error, _LOST_PROCESS_SIGNS)


def is_consequence(error: BaseException) -> bool:
    """Whether it is a communication error (NCCL, Gloo) of the other workers of a group after one was lost."""
    return any(sign in str(error) for sign in _CONSEQUENCE_SIGNS)


def lacks_credentials(error: BaseException) -> bool:
    """Whether an object store's client found no credentials."""
    return type(error).__name__.startswith(_CREDENTIALS_SIGNS)


def refused_by_store(error: BaseException) -> tuple[str, str]:
    """Code and message with which an S3 server refused a request, from its client's error (botocore); else empty."""
    response = getattr(error, "response", None)
    if not type(error).__name__.endswith("ClientError") or not isinstance(response, dict):
        return "", ""
    facts = response.get("Error", {})
    return str(facts.get("Code", "")), str(facts.get("Message", ""))


def refusal_in(answer: str) -> tuple[str, str]:
    """Code and message of the XML with which an S3 server refuses a request, somewhere in a text; else empty."""
    code, message = (re.search(rf"<{name}>(.*?)</{name}>", answer, re.DOTALL) for name in ("Code", "Message"))
    return code.group(1) if code else "", message.group(1) if message else ""


def is_unreachable_store(error: BaseException) -> bool:
    """Whether an object store's client could not reach its server, or lost the connection."""
    return type(error).__name__.startswith(_UNREACHABLE_SIGNS)


def _shows(error: BaseException, signs: tuple[str, ...]) -> bool:
    return any(sign in f"{type(error).__name__}: {error}" for sign in signs)


def printed_cause(printed: str) -> str | None:
    """The message of the first error in an engine's output that is not a consequence of another; None if none is."""
    for line in printed.splitlines():
        raised = _RAISED.search(line)
        if raised and not any(text in line for text in _PRINTED_CONSEQUENCES):
            return re.sub(r"\s+", " ", raised["text"]).strip().rstrip(".")
    return None


def reported_cause(message: str) -> str | None:
    """The cause that a replica reported, from Ray Serve's message about a failed deployment."""
    for line in message.splitlines():
        before, mark, cause = line.partition(CAUSE)
        if mark and "raise" not in before:
            return cause.strip()
    return printed_cause(message)


def ray_account(text: str) -> str:
    """The first sentence of Ray's error text about a process that died, with the worker's exit detail if given."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Failure #")]
    detail = re.search(r"Worker exit detail: ([^.]+)", text)
    first = lines[0].partition(". ")[0].rstrip(".:") if lines else "its process ended"
    return f"{first}: {detail.group(1)}" if detail else first
