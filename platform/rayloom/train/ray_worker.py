"""What a worker of Ray Train runs: the training loop, which tells the driver what happens through its mailbox.

A file by itself, since a worker's process imports the file of its function: run.py would bring what only the driver
needs.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import Any

import ray
import ray.train
from ray.train.torch import get_device

POLL_SECONDS = 0.2


def train_in_worker(config: dict[str, Any]) -> None:
    began = time.perf_counter()
    # Otherwise DeepSpeed, which transformers may import, warns that there are no GPUs.
    os.environ.setdefault("DS_ACCELERATOR", get_device().type)
    from rayloom.train.loop.loop import train
    from rayloom.train.prepare import on_this_node
    from rayloom.train.process_group import current_group

    group = current_group(get_device())
    post = _Post(config["mailbox"])
    try:
        job = on_this_node(config["job"], config["parents"])
        with ExitStack() as closing:
            asker = None
            if config["engines"] and group.is_first:
                from rayloom.train.rollouts.actors import asker_of

                opening = asker_of(job, config["parents"], config["engines"], config["directory"])
                asker = closing.enter_context(opening)
            train(job, group, post.tell, post.is_asked_to_stop, _has_notice, asker, began)
    finally:
        post.send()


def _has_notice() -> bool:
    """Whether a node of this training is about to be preempted. All workers must call it together."""
    return ray.train.get_preemption_info() is not None


class _Post:
    """A worker's access to the mailbox. It sends steps at most a few times a second, and never blocks."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._events: list[dict[str, Any]] = []
        self._sent_at = 0.0
        self._answer: ray.ObjectRef | None = None
        self._is_asked_to_stop = False

    def tell(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        if event["event"] != "step" or time.monotonic() - self._sent_at > POLL_SECONDS:
            self.send()

    def send(self) -> None:
        if self._events:
            self._sent_at = time.monotonic()
            self._answer = self._mailbox.put.remote(self._events)
            self._events = []

    def is_asked_to_stop(self) -> bool:
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._is_asked_to_stop |= ray.get(self._answer)
            self._answer = None
        return self._is_asked_to_stop
