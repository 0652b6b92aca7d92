"""Settings of every test."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Machines are shared and noisy: a slow example is no failure, and a failure must come again for whoever looks into it.
# `make test-full` tries four times as many examples of each property (--hypothesis-profile=full).
settings.register_profile("rayloom", deadline=None, derandomize=True, print_blob=True, max_examples=25)
settings.register_profile("full", settings.get_profile("rayloom"), max_examples=100)
settings.load_profile("rayloom")
# Threads of OpenMP that wait sleep, here and in the processes that a test starts. By default they spin for milliseconds
# on cores that the cluster's other processes need: three tests of rollouts took 343 s beside another file, now all
# six take 43 s.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A shell's background jobs ignore Ctrl-C's signal, and so would every process that a test starts and ends by it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The engines' modules are objects that stay. A full collection that goes through them takes 0.4 s, two fifths of a
# small trial, and collections are a tenth of the time of importing them.
gc.disable()
atexit.register(gc.unfreeze)  # else libraries that count what they made take it for lost


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What the gateway has logged until now, with its tracebacks."""
    heard: list[str] = []
    handler, logger = logging.Handler(), logging.getLogger("ray.serve")
    handler.emit = lambda record: heard.append(handler.format(record))  # type: ignore[method-assign]
    logger.addHandler(handler)
    yield heard
    logger.removeHandler(handler)


def pytest_collection_finish() -> None:
    """What was imported until now is left out of collections from here on."""
    gc.freeze()
    gc.enable()
