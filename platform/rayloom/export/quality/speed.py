"""Measures tokens per second of models on this hardware with vLLM, which also serves them.

Each model has an engine in a process of its own. All are started first and then measured in turns, so that other load
on the machine affects all of them equally.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rayloom.export.quality.engine_process import EngineLimits, EngineProcess, GenerateTurn
from rayloom.specs.export import Speed


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
