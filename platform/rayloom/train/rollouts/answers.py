"""Answers that a policy wrote: what engines are asked and give back, what rewards made of it, and their files.

Shapes: T tokens that the model wrote of an answer, P prompts of a step, G answers to each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rayloom.artifacts.durable import write_durably
from rayloom.artifacts.work_copy import WorkCopy

Files = Mapping[str, NDArray[np.uint8]]
"""A folder's files by name: new weights on their way to engines, which may run on other nodes."""
Values = NDArray[np.float64]


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt for an engine."""

    tokens: list[int]
    seed: int | None
    """Of the sampling; None for the likeliest answer."""
    group: int = 0
    """Equal for equal prompts: one engine answers them all, and computes the prompt once."""


@dataclass(frozen=True)
class WrittenTokens:
    """An engine's answer."""

    tokens: list[int]
    """With the stop token at which it ended."""
    log_p: list[float]
    """Natural log of each token's probability when it was sampled."""
    is_cut: bool
    """Whether it ended only because it was as long as allowed."""


class PendingAnswers(Protocol):
    """Answers that are being written."""

    def result(self) -> tuple[list[WrittenTokens], float]:
        """The answers in the order in which they were asked, and the seconds that the slowest engine took."""


class Writers(Protocol):
    """The engines that write answers."""

    def sleep(self) -> None:
        """Frees the memory of the devices, until `wake`."""

    def wake(self) -> None:
        """Takes the memory again; the weights are those from before."""

    def load(self, version: int, files: Files) -> None:
        """Gives all engines new weights. They answer by these from now on."""

    def ask(self, asked: Sequence[AskedPrompt], goes_on: bool = False) -> PendingAnswers:
        """Begins to write answers by the weights that were loaded last.

        goes_on: the prompts continue those that were asked before, which engines may still remember.
        """


def seed_of(seed: int, step: int, prompt: int, sample: int, *turn: int) -> int:
    """The seed of one answer, so that a resumed run samples the same. `turn`: number of a later turn, from 1."""
    return int(np.random.SeedSequence([seed, step, prompt, sample, *turn]).generate_state(1)[0])


@dataclass
class PolicyAnswer:
    """One answer of a step with all that training needs to know of it."""

    step: int
    """The step that trains it, from 0."""
    prompt: tuple[int, int]
    """Source and row of its prompt."""
    sample: int
    """Its number among the answers to the prompt."""
    prompt_tokens: list[int]
    tokens: list[int]
    """All that follows the prompt."""
    log_p: list[float]
    """(T,) by the engine, of the T tokens that the model wrote."""
    is_cut: bool
    text: str = ""
    """Of the last turn, which rewards judge."""
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """Where in `tokens` an environment spoke between turns: first place, and the place behind the last."""
    turns: list[dict[str, Any]] = field(default_factory=list)
    """Messages between the prompt and the last turn."""
    num_retokenised: int = 0
    """Turns whose ids are other ones than those of their text."""
    reward: float | None = None
    """None if a reward could not judge it."""
    parts: dict[str, float | None] = field(default_factory=dict)
    """The number of each reward, without its weight."""
    problems: list[str] = field(default_factory=list)
    # What the trainer computes of it before the first update from its round.
    old_log_p: Values | None = None
    reference_log_p: Values | None = None
    values: Values | None = None
    advantages: Values | None = None
    returns: Values | None = None

    @property
    def written(self) -> NDArray[np.int64]:
        """(T,) where in `tokens` those are that the model wrote."""
        is_written = np.ones(len(self.tokens), np.bool_)
        for begin, end in self.gaps:
            is_written[begin:end] = False
        return np.flatnonzero(is_written)

    @property
    def num_written(self) -> int:
        return len(self.log_p)


@dataclass(frozen=True)
class Round:
    """All answers that were written with the same weights, in the order of steps, prompts and samples."""

    version: int
    """Step after which the weights had been updated that wrote them."""
    answers: list[PolicyAnswer]
    facts: dict[str, float]
    """Seconds of hand-over, writing and judging, and prompts that were replaced."""

    def of_step(self, step: int) -> list[PolicyAnswer]:
        return [answer for answer in self.answers if answer.step == step]


FOLDER = "rollouts"
_COMPUTED = ("old_log_p", "reference_log_p", "values", "advantages", "returns")


@dataclass(frozen=True)
class RoundFiles:
    """The rounds of a run in its work folder, `rollouts/round-NNNNNN.jsonl`, from which a resumed run goes on.

    `copy`: the work folder's copy in the store, if workers do not share a disk.
    """

    work: Path
    copy: WorkCopy | None = None

    def file(self, number: int) -> Path:
        return self.work / FOLDER / f"round-{number:06d}.jsonl"

    def fetch(self) -> None:
        """Makes this node's rounds those of the store."""
        if self.copy is not None:
            self.copy.replace(FOLDER)

    def write(self, number: int, found: Round) -> None:
        """Writes a round to its file, which appears whole."""
        head = {"version": found.version, "facts": found.facts}
        rows = [asdict(answer) for answer in found.answers]
        for row in rows:
            row |= {name: row[name].tolist() for name in _COMPUTED if row[name] is not None}
        file = self.file(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (head, *rows)))
        if self.copy is not None:
            self.copy.put(f"{FOLDER}/{file.name}")

    def read(self, number: int) -> Round:
        head, *rows = [json.loads(line) for line in self.file(number).read_text(encoding="utf-8").split("\n") if line]
        for row in rows:
            row |= {"prompt": tuple(row["prompt"]), "gaps": [tuple(gap) for gap in row["gaps"]]}
            row |= {name: np.asarray(row[name], np.float64) for name in _COMPUTED if row[name] is not None}
        return Round(head["version"], [PolicyAnswer(**row) for row in rows], head["facts"])

    def forget(self, is_needed: Callable[[int], bool]) -> None:
        """Removes the rounds that are not needed any more."""
        for file in (self.work / FOLDER).glob("round-*.jsonl"):
            if not is_needed(int(file.stem.removeprefix("round-"))):
                file.unlink()
                if self.copy is not None:
                    self.copy.discard(f"{FOLDER}/{file.name}")


def rewards_of(answers: Sequence[PolicyAnswer], group_size: int) -> Values:
    """(P, G) rewards; NaN where there is none."""
    flat = [np.nan if answer.reward is None else answer.reward for answer in answers]
    return np.asarray(flat, np.float64).reshape(-1, group_size)


def lines_of(answers: Sequence[PolicyAnswer], group_size: int) -> list[Sequence[PolicyAnswer]]:
    """The answers of each prompt."""
    return [answers[begin : begin + group_size] for begin in range(0, len(answers), group_size)]


def shown(answer: PolicyAnswer) -> dict[str, Any]:
    """An answer as people read it."""
    said = [f"{turn['role']}: {turn['content']}" for turn in answer.turns]
    text = "\n".join([*said, f"assistant: {answer.text}"]) if said else answer.text
    return {"reward": answer.reward, "answer": text, "tokens": answer.num_written, "parts": answer.parts}
