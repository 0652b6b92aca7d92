"""What is replaced in vLLM's processes on CPUs: the operations of LoRA, and what becomes of a seed in a long prompt.

vLLM calls `register` in each of its processes, as an entry point of `vllm.general_plugins`.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from rayloom.models import vllm_lora
from rayloom.models.vllm_process import ON_CPU


def register() -> None:
    """Replaces parts of vLLM in this process, if Rayloom set it up for a CPU."""
    if os.environ.get(ON_CPU) == "1":
        from vllm.v1.worker.cpu_model_runner import CPUModelRunner

        vllm_lora.replace_operations()
        draw_nothing_for_parts_of_prompts(CPUModelRunner)


def draw_nothing_for_parts_of_prompts(runner: Any) -> None:
    """Makes a CPU's model runner leave the random state of requests alone whose prompt is not read to its end.

    A prompt that is longer than what is left of a step's tokens is read in parts, and what is sampled after each part
    but the last is thrown away. vLLM 0.32 then sets the request's generator back by an offset, which generators on CPUs
    do not have: a request with a seed would end the engine and all other requests with it.
    """
    sample, keep_books = runner._sample, runner._bookkeeping_sync

    def sample_and_set_back(self: Any, *args: Any, **kwargs: Any) -> Any:
        states = [(generator, generator.get_state()) for generator in _of_unread_prompts(self).values()]
        sampled = sample(self, *args, **kwargs)
        for generator, state in states:
            generator.set_state(state)
        return sampled

    def keep_books_without(self: Any, *args: Any, **kwargs: Any) -> Any:
        generators, unread = self.input_batch.generators, _of_unread_prompts(self)
        for number in unread:
            del generators[number]
        try:
            return keep_books(self, *args, **kwargs)
        finally:
            generators.update(unread)

    runner._sample, runner._bookkeeping_sync = sample_and_set_back, keep_books_without


def _of_unread_prompts(runner: Any) -> dict[int, Any]:
    """The generators of requests that are not read to their end in this step, by number in the batch."""
    batch = runner.input_batch
    unread = np.flatnonzero(runner.discard_request_mask.np[: batch.num_reqs]).tolist()
    return {number: batch.generators[number] for number in unread if number in batch.generators}
