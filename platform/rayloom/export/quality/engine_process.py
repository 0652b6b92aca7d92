"""vLLM's offline engine in a process of its own, to measure a written model's speed and log-probabilities."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rayloom.errors import ResourceError
from rayloom.models.compile_cache import keep_compiled
from rayloom.models.vllm_process import cpu_dtype, vllm_environment
from rayloom.specs.export import Speed

CACHE_BYTES = 1 << 29
LEAST_FREE_SHARE = 0.1


@dataclass(frozen=True)
class EngineLimits:
    """The limits with which an engine is started."""

    length_tokens: int
    """Longest prompt with its answer."""
    num_sequences: int
    num_cores: int | None
    """CPU cores of the engine; None if all engines share the first GPU."""


@dataclass(frozen=True)
class GenerateTurn:
    """A request to generate answers of a fixed length to synthetic prompts; the result is the time in seconds."""

    batch_sequences: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class LikelihoodTurn:
    """A request for the natural log-probability of each token given those before it, for all but a row's first."""

    rows: list[list[int]]


class EngineProcess:
    """An engine in another process. Raises ResourceError if it does not start, or dies."""

    def __init__(self, model: Path, limits: EngineLimits) -> None:
        context = multiprocessing.get_context("spawn")
        self._turns, theirs = context.Pipe()
        self._model = model
        self._process = context.Process(target=_take_turns, args=(str(model), limits, theirs))
        self._process.start()
        theirs.close()
        self._answer()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def seconds(self, turn: GenerateTurn) -> float:
        self._turns.send(turn)
        return float(self._answer())

    def log_probabilities(self, rows: list[list[int]]) -> list[list[float]]:
        self._turns.send(LikelihoodTurn(rows))
        answer: list[list[float]] = self._answer()
        return answer

    def stop(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died, which was already reported
            self._turns.send(None)
        self._process.join()

    def _answer(self) -> Any:
        try:
            return self._turns.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            what = f"vLLM did not load {self._model}, or ended while it computed; its own messages are above"
            fix = "If vLLM does not serve this model or scheme on this machine, set max_engine_difference: null and "
            raise ResourceError(what, fix=f"{fix}leave `speed` out; else give the machine more memory.") from None


def _take_turns(model: str, limits: EngineLimits, turns: Connection) -> None:
    """The main function of an engine's process: answers requests until it receives None."""
    is_cpu = limits.num_cores is not None
    if limits.num_cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: limits.num_cores])
    os.environ |= vllm_environment(limits.num_cores, in_one_process=True)
    keep_compiled()
    import rayloom.pretrained  # noqa: F401 - for what vLLM imports of transformers

    # Engines write to standard output, which is for the command's own output: redirect it to standard error.
    os.dup2(2, 1)
    from vllm import LLM

    # The KV cache has a fixed size; this is only the share that must be free, on a GPU with several engines.
    share = {} if is_cpu else {"gpu_memory_utilization": LEAST_FREE_SHARE}
    engine = LLM(
        model=model,
        max_model_len=limits.length_tokens,
        max_num_seqs=limits.num_sequences,
        dtype=cpu_dtype(Path(model)) if is_cpu else "auto",
        kv_cache_memory_bytes=CACHE_BYTES,
        enable_prefix_caching=False,  # a cached prefix would skip prompt computation and distort the speed
        enforce_eager=is_cpu,
        **share,
    )
    turns.send(0.0)
    number = 0
    while (turn := turns.recv()) is not None:
        number += 1
        turns.send(_generated(engine, turn, number) if isinstance(turn, GenerateTurn) else _likelihoods(engine, turn))


def _generated(engine: Any, turn: GenerateTurn, number: int) -> float:
    from vllm import SamplingParams, TokensPrompt

    vocabulary = engine.llm_engine.model_config.get_vocab_size()
    greedy = SamplingParams(temperature=0.0, max_tokens=turn.new_tokens, min_tokens=turn.new_tokens, ignore_eos=True)
    prompts = [
        TokensPrompt(prompt_token_ids=_tokens(number, row, turn.prompt_tokens, vocabulary))
        for row in range(turn.batch_sequences)
    ]
    started = time.perf_counter()
    engine.generate(prompts, greedy, use_tqdm=False)
    return time.perf_counter() - started


def _likelihoods(engine: Any, turn: LikelihoodTurn) -> list[list[float]]:
    from vllm import SamplingParams, TokensPrompt

    prompts = [TokensPrompt(prompt_token_ids=row) for row in turn.rows]
    asked = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
    outputs = engine.generate(prompts, asked, use_tqdm=False)
    return [
        [
            entry[token].logprob if token in entry else math.nan
            for token, entry in zip(row[1:], output.prompt_logprobs[1:], strict=True)
        ]
        for row, output in zip(turn.rows, outputs, strict=True)
    ]


def _tokens(turn: int, row: int, num_tokens: int, vocabulary: int) -> list[int]:
    """Synthetic token ids, different for each turn and row."""
    first = turn * 7919 + row * 104_729
    return [(first + index * 31) % (vocabulary - 1) for index in range(num_tokens)]


# Measures tokens per second of models on this hardware with vLLM, which also serves them.
#
# Each model has an engine in a process of its own. All are started first and then measured in turns, so that other
# load on the machine affects all of them equally.


def tokens_per_second(models: Mapping[str, Path], speed: Speed, num_cores: int | None) -> dict[str, float]:
    """Median tokens per second by model. `num_cores`: cores of each engine; None if all engines share the first GPU."""
    with engines(models, speed, num_cores) as running:
        return {name: statistics.median(rounds) for name, rounds in in_turns(running, speed).items()}


def in_turns(running: Mapping[str, EngineProcess], speed: Speed) -> dict[str, list[float]]:
    """Tokens per second of each round, by model. The order of models is reversed in every second round."""
    measured: dict[str, list[float]] = {name: [] for name in running}
    for number in range(speed.rounds):
        order: Sequence[str] = list(running) if number % 2 == 0 else list(running)[::-1]
        for name in order:
            seconds = running[name].seconds(_turn_of(speed))
            measured[name].append(speed.batch_sequences * speed.new_tokens / seconds)
    return measured


@contextlib.contextmanager
def engines(models: Mapping[str, Path], speed: Speed, num_cores: int | None) -> Iterator[dict[str, EngineProcess]]:
    """Engines by model, started and warmed up with one measurement."""
    limits = EngineLimits(speed.prompt_tokens + speed.new_tokens, speed.batch_sequences, num_cores)
    with contextlib.ExitStack() as running:
        started = {name: running.enter_context(EngineProcess(model, limits)) for name, model in models.items()}
        for engine in started.values():
            engine.seconds(_turn_of(speed))
        yield started


def _turn_of(speed: Speed) -> GenerateTurn:
    return GenerateTurn(speed.batch_sequences, speed.prompt_tokens, speed.new_tokens)
