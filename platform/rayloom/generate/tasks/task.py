"""What every task has in common: requests with keys, rows that say what made them, and the filters."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayloom.generate.asks import Ask, Found, ModelAnswer, Steps
from rayloom.generate.filters.filter import Candidate, DropReason
from rayloom.generate.filters.registry import Filters
from rayloom.generate.given import Given
from rayloom.generate.prompts import Prompts
from rayloom.specs.generate import GenerateSpec
from rayloom.specs.generation.engines import Sampling

MOST_DROPPED_CHARACTERS = 2000
Sampled = Generator[Sequence[Ask], list[ModelAnswer], list[list[ModelAnswer]]]


@dataclass(frozen=True)
class Maker:
    """What a task writes with."""

    spec: GenerateSpec
    prompts: Prompts
    filters: Filters

    @property
    def sampling(self) -> Sampling:
        return self.spec.sampling

    def made_by(
        self, answers: Mapping[str, ModelAnswer], origins: Iterable[str], sampled: ModelAnswer
    ) -> dict[str, Any]:
        """What a row says about itself. `answers`: those that it is made of, by the name of their prompt."""
        return {
            "model": sampled.model,
            "prompts": list(answers),
            "requests": [answer.key for answer in answers.values()],
            "from": list(dict.fromkeys(origins)),
            "sampling": {
                "temperature": self.sampling.temperature,
                "top_p": self.sampling.top_p,
                "max_new_tokens": self.sampling.max_new_tokens,
                "seed": Ask(sampled.key, "", "").seed(self.sampling.seed),
            },
        }

    def keep(self, found: Found, row: Candidate, fields: dict[str, Any], drop: DropReason | None = None) -> bool:
        """Adds a row, unless it is dropped: for the reason that is given, or by a filter."""
        drop = drop or self.filters.of_row(row)
        if drop is not None:
            seen = {"seen": drop.seen[:MOST_DROPPED_CHARACTERS]} if drop.seen else {}
            found.drop(drop.reason, row.answer[:MOST_DROPPED_CHARACTERS], prompt=row.prompt, **seen)
            return False
        self.filters.keep_row(row)
        found.rows.append({"prompt": row.prompt, "answer": row.answer, "is_new": row.is_new, "row": fields})
        return True


class Task(ABC):
    """One way of writing, as rounds of requests and what is made of their answers. It does no input or output."""

    prompt_names: tuple[str, ...]

    def __init__(self, maker: Maker) -> None:
        self.maker = maker

    @abstractmethod
    def round(self, number: int) -> Steps | None:
        """The next round, which is not begun yet; None if there is no more to do. Called once for each number."""

    def restore(self, found: Found) -> None:
        """Takes over what a round found that an earlier run finished."""
        for one in found.accepted:
            self.maker.filters.keep_instruction(one["instruction"])
        for row in found.rows:
            self.maker.filters.keep_row(Candidate(row["prompt"], row["answer"], is_new=row["is_new"]))


class OfGivenRows(Task):
    """Writes something for each row of a data set."""

    def __init__(self, maker: Maker, rows: Iterator[Given]) -> None:
        super().__init__(maker)
        self._rows = rows

    def round(self, number: int) -> Steps | None:
        part = list(itertools.islice(self._rows, self.maker.spec.round_rows))
        return self._steps(number, part) if part else None

    def _steps(self, number: int, part: Sequence[Given]) -> Steps:
        found = Found()
        for row in part:
            if row.problem is not None:
                reason, _, said = row.problem.partition(": ")
                found.drop(reason, said, origin=row.origin)
        good = [row for row in part if row.problem is None]
        yield from self.written(number, good, found)
        return found

    @abstractmethod
    def written(self, number: int, rows: Sequence[Given], found: Found) -> Steps:
        """The round for rows that have a text; adds to `found`, and returns it."""

    def asks(self, number: int, name: str, texts: Iterable[str], stage: str = "", **how: Any) -> list[Ask]:
        """A request for each text by one prompt. `stage` tells apart several uses of a prompt."""
        return [Ask(f"{number}/{name}{stage}/{place}", text, name, **how) for place, text in enumerate(texts)]

    def sampled(self, number: int, rows: Sequence[Given], num_samples: int) -> Sampled:
        """Answers to each row's text, by `yield from`: a list of `num_samples` for each row."""
        texts = [self.maker.prompts.text("answer", prompt=row.text) for row in rows for _ in range(num_samples)]
        answers: list[ModelAnswer] = yield self.asks(number, "answer", texts)
        return [answers[first : first + num_samples] for first in range(0, len(answers), num_samples)]


def conversation_of(prompt: str, answer: str) -> dict[str, Any]:
    """A row that `train` reads."""
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def failure(answer: ModelAnswer) -> DropReason | None:
    """The reason of a row whose request was refused."""
    return DropReason("failed", answer.failed) if answer.failed is not None else None
