"""The engine's own cause, out of what vLLM and Ray Serve print around it."""

from __future__ import annotations

from rayloom.engine_errors import CAUSE, printed_cause, reported_cause

PRINTED = """\
INFO 11-21 21:29:41 [model.py:733] Resolved architecture
(EngineCore pid=7) ERROR 11-21 21:30:02 [core.py:1] EngineCore failed to start.
(EngineCore pid=7) ERROR 11-21 21:30:02 [core.py:1] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-21 21:30:02 [core.py:1] ValueError: Available memory on node 0 (3/10 GiB)   is less.
Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def test_the_first_error_is_the_cause_and_its_consequences_are_not() -> None:
    assert printed_cause(PRINTED) == "Available memory on node 0 (3/10 GiB) is less"


def test_qualified_names_of_errors_are_seen() -> None:
    assert printed_cause("torch.cuda.OutOfMemoryError: CUDA out of memory.") == "CUDA out of memory"


def test_output_without_an_error_has_no_cause() -> None:
    assert (
        printed_cause("INFO all is well\nRuntimeError: Engine core initialization failed. See root cause above.")
        is None
    )


def test_the_replicas_own_words_are_found_in_serves_message() -> None:
    message = f"""The deployment failed to start 1 times in a row. Error:
ray::ServeReplica:x:engine.initialize() (pid=1)
    raise RuntimeError(f"{CAUSE}{{error}}") from None
RuntimeError: {CAUSE}Model architectures ['X'] are not supported
"""
    assert reported_cause(message) == "Model architectures ['X'] are not supported"


def test_a_message_without_them_still_gives_its_error() -> None:
    assert reported_cause("ValueError: no such resource: GPU") == "no such resource: GPU"
