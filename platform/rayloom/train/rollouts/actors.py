"""Engines as Ray actors: started by the driver, asked by the first training worker, started anew where one dies."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from rayloom.artifacts.store import Artifact
from rayloom.errors import ResourceError
from rayloom.observe.progress import say
from rayloom.specs.train import TrainSpec
from rayloom.train.job import TrainJob
from rayloom.train.rollouts.answers import AskedPrompt, Files, WrittenTokens
from rayloom.train.rollouts.engine import AnswerEngine, EngineOrder, OldWeightsError

if TYPE_CHECKING:
    from rayloom.train.rollouts.asking import Asker

MAX_RESTARTS = 3
"""How often an engine is started anew after its process died."""

SLEEPING_GPU_SHARE = 0.6
"""Of a GPU that an engine shares with a worker, as Ray counts them: two engines never come onto the same one."""


def start_engines(spec: TrainSpec, base: Artifact) -> list[Any]:
    """One actor for each engine of a policy, which load the model while the caller goes on; none for other training."""
    rollouts = spec.rollouts
    if rollouts is None:
        return []
    from rayloom.text.conversations.render import Renderer

    order = EngineOrder(spec, base, tuple(sorted(Renderer.of_model(base.path).stop_tokens)))
    say(f"{spec.name}: starting {rollouts.num_engines} engines that write answers")
    is_own = rollouts.placement == "own"
    actor = ray.remote(
        # Where the trainer waits while engines write, its CPUs are theirs.
        num_cpus=rollouts.cpus_per_engine if is_own else 0,
        num_gpus=SLEEPING_GPU_SHARE if rollouts.sleeps else rollouts.gpus_per_engine,
        max_restarts=MAX_RESTARTS,
        max_task_retries=-1,
        runtime_env={"env_vars": order.environment()},
    )(AnswerEngine)
    return [actor.remote(order) for _ in range(rollouts.num_engines)]


@contextmanager
def asker_of(
    job: TrainJob, parents: Mapping[str, Artifact], engines: Sequence[Any], job_directory: Path
) -> Iterator[Asker]:
    """What the first worker needs for a policy's answers; the processes of rewards end with the block."""
    from rayloom.rewards.opening import opened
    from rayloom.train.rollouts.asking import Asker
    from rayloom.train.rollouts.turns import opened_environment

    with (
        opened(job.spec.rewards or (), "rewards", parents, job_directory) as rewards,
        opened_environment(job.spec, parents["base"].path, job_directory) as environment,
    ):
        writers = ActorWriters(engines)
        writers.wait()
        yield Asker(job.spec, job.tokenizer, writers, rewards, environment)


class ActorWriters:
    """Writers on actors. An engine that was started anew gets its weights and its prompts again."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self.actors = list(actors)
        self._version = -1
        self._files: Any = None

    def wait(self) -> None:
        """Returns once all engines have loaded the base. Raises ResourceError if one cannot."""
        _got([actor.__ray_ready__.remote() for actor in self.actors])

    def sleep(self) -> None:
        _got([actor.sleep.remote() for actor in self.actors])

    def wake(self) -> None:
        _got([actor.wake.remote() for actor in self.actors])

    def load(self, version: int, files: Files) -> None:
        self._version, self._files = version, ray.put(dict(files))
        _got([actor.load.remote(version, self._files) for actor in self.actors])

    def ask(self, asked: Sequence[AskedPrompt], goes_on: bool = False) -> _Asking:
        shares: list[list[int]] = [[] for _ in self.actors]
        for number, one in enumerate(asked):
            shares[one.group % len(shares)].append(number)
        return _Asking(self.actors, self._version, self._files, list(asked), shares, goes_on)


@dataclass
class _Asking:
    actors: list[Any]
    version: int
    files: Any
    asked: list[AskedPrompt]
    shares: list[list[int]]
    """The numbers of the prompts that each engine has."""
    goes_on: bool

    def __post_init__(self) -> None:
        self._answers = [self._write(engine) for engine in range(len(self.actors))]

    def _write(self, engine: int) -> Any:
        share = [self.asked[number] for number in self.shares[engine]]
        return self.actors[engine].write.remote(self.version, share, self.goes_on)

    def result(self) -> tuple[list[WrittenTokens], float]:
        found: dict[int, WrittenTokens] = {}
        slowest = 0.0
        for engine, share in enumerate(self.shares):
            written, seconds = self._of(engine)
            found |= dict(zip(share, written, strict=True))
            slowest = max(slowest, seconds)
        return [found[number] for number in range(len(self.asked))], slowest

    def _of(self, engine: int) -> tuple[list[WrittenTokens], float]:
        try:
            return _got([self._answers[engine]])[0]  # type: ignore[no-any-return]
        except OldWeightsError:
            say(f"an engine was started anew; its {len(self.shares[engine])} prompts are asked again")
            started = time.perf_counter()
            _got([self.actors[engine].load.remote(self.version, self.files)])
            written, _ = _got([self._write(engine)])[0]
            return written, time.perf_counter() - started


def _got(references: Sequence[Any]) -> list[Any]:
    try:
        return ray.get(list(references))  # type: ignore[no-any-return]
    except RayTaskError as error:
        if isinstance(error.cause, OldWeightsError):
            raise error.cause from None
        raise
    except RayActorError as error:
        fix = "Its messages are above. Lower rollouts.kv_cache_bytes or max_sequences if memory ran out."
        raise ResourceError(f"An engine that writes answers died: {error}", fix=fix) from error
