"""What is replaced in vLLM on CPUs: seeds of prompts that are read in parts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from rayloom.models.vllm_on_cpu import draw_nothing_for_parts_of_prompts


def runner_class() -> Any:
    """As vLLM's: it samples for every request, and cannot take back what it drew of a generator on the CPU."""

    class Runner:
        def __init__(self, unread: list[bool]) -> None:
            generators = {number: torch.Generator().manual_seed(number) for number in range(len(unread))}
            self.input_batch = SimpleNamespace(num_reqs=len(unread), generators=generators)
            self.discard_request_mask = SimpleNamespace(np=np.array([*unread, True, True]))  # it is as long as a batch

        def _sample(self) -> list[float]:
            return [torch.rand(1, generator=one).item() for one in self.input_batch.generators.values()]

        def _bookkeeping_sync(self) -> list[int]:
            for number in np.flatnonzero(self.discard_request_mask.np[: self.input_batch.num_reqs]):
                if number in self.input_batch.generators:
                    raise RuntimeError("CPU Generator does not use offset")
            return sorted(self.input_batch.generators)

    return Runner


def test_a_request_draws_only_once_its_prompt_is_read() -> None:
    Runner = runner_class()  # noqa: N806 (a class)
    draw_nothing_for_parts_of_prompts(Runner)
    partly, whole = Runner([False, True]), Runner([False, False])
    first, expected = partly._sample(), whole._sample()
    assert first == expected  # what is sampled for the unread prompt is thrown away
    assert partly._bookkeeping_sync() == [0]
    assert sorted(partly.input_batch.generators) == [0, 1]
    partly.discard_request_mask.np[:2] = False
    (after_one, begins), (after_two, goes_on) = partly._sample(), whole._sample()
    assert after_one == after_two
    assert begins == expected[1] != goes_on
