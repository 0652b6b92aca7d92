"""Tokens a second of models on this hardware, by the engine that serves them.

Each model's engine has a process of its own; all are up at once and take turns, so that whatever else the machine does
slows all of them alike.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from rayloom.errors import ResourceError
from rayloom.models.vllm_process import vllm_environment
from rayloom.specs.export import Speed

CACHE_BYTES = 1 << 29
LEAST_FREE_SHARE = 0.1


def tokens_per_second(models: Mapping[str, Path], speed: Speed, num_cores: int | None) -> dict[str, float]:
    """Median of each model. `num_cores`: of each engine; None on a GPU, of which all engines share the first."""
    with engines(models, speed, num_cores) as running:
        return {name: statistics.median(found) for name, found in in_turns(running, speed).items()}


def in_turns(running: Mapping[str, EngineProcess], speed: Speed) -> dict[str, list[float]]:
    """Tokens a second by model and round. Those who go first in one round go last in the next."""
    found: dict[str, list[float]] = {name: [] for name in running}
    for number in range(speed.rounds):
        order: Sequence[str] = list(running) if number % 2 == 0 else list(running)[::-1]
        for name in order:
            found[name].append(running[name].tokens_per_second(speed.batch_sequences))
    return found


@contextlib.contextmanager
def engines(models: Mapping[str, Path], speed: Speed, num_cores: int | None) -> Iterator[dict[str, EngineProcess]]:
    """Started, and warm."""
    running: dict[str, EngineProcess] = {}
    try:
        for name, model in models.items():
            running[name] = EngineProcess(model, speed, num_cores)
        for engine in running.values():
            engine.tokens_per_second(speed.batch_sequences)
        yield running
    finally:
        for engine in running.values():
            engine.stop()


class EngineProcess:
    """One engine in its process. Raises ResourceError where it does not start, or dies."""

    def __init__(self, model: Path, speed: Speed, num_cores: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._turns, theirs = context.Pipe()
        self._model, self._new_tokens = model, speed.new_tokens
        self._process = context.Process(target=_take_turns, args=(str(model), speed, num_cores, theirs))
        self._process.start()
        theirs.close()
        self._seconds()

    def tokens_per_second(self, batch_sequences: int) -> float:
        return batch_sequences * self._new_tokens / self._seconds(batch_sequences)

    def stop(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died, which was said
            self._turns.send(None)
        self._process.join()

    def _seconds(self, batch_sequences: int | None = None) -> float:
        """Of a batch; of none, when the engine is ready."""
        try:
            if batch_sequences is not None:
                self._turns.send(batch_sequences)
            return float(self._turns.recv())
        except (EOFError, BrokenPipeError):
            what = f"vLLM ended before it could say how fast {self._model} is; its own words are above"
            raise ResourceError(what, fix="Leave `speed` out, or give the machine room for both models.") from None


def _take_turns(model: str, speed: Speed, num_cores: int | None, turns: Connection) -> None:
    """In an engine's process: answers each batch size with the seconds that it took."""
    if num_cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])
    os.environ |= vllm_environment(num_cores, in_one_process=True)
    # Engines write to standard output, which belongs to the command.
    os.dup2(2, 1)
    from vllm import LLM, SamplingParams, TokensPrompt

    length = speed.prompt_tokens + speed.new_tokens
    # The cache has its size; this is only what must be free, and the other engine is on the same GPU.
    share = {} if num_cores is not None else {"gpu_memory_utilization": LEAST_FREE_SHARE}
    engine = LLM(
        model=model,
        max_model_len=length,
        max_num_seqs=speed.batch_sequences,
        kv_cache_memory_bytes=CACHE_BYTES,
        enable_prefix_caching=False,  # a prefix that is found would be a prompt that is not computed
        enforce_eager=num_cores is not None,
        **share,
    )
    vocabulary = engine.llm_engine.model_config.get_vocab_size()
    greedy = SamplingParams(temperature=0.0, max_tokens=speed.new_tokens, min_tokens=speed.new_tokens, ignore_eos=True)
    turns.send(0.0)
    turn = 0
    while (batch := turns.recv()) is not None:
        turn += 1
        prompts = [TokensPrompt(prompt_token_ids=_tokens(turn, row, speed, vocabulary)) for row in range(batch)]
        started = time.perf_counter()
        engine.generate(prompts, greedy, use_tqdm=False)
        turns.send(time.perf_counter() - started)


def _tokens(turn: int, row: int, speed: Speed, vocabulary: int) -> list[int]:
    """Some tokens, others in each turn and row."""
    first = turn * 7919 + row * 104_729
    return [(first + place * 31) % (vocabulary - 1) for place in range(speed.prompt_tokens)]
