"""What is asked of a model and what it answers; the work files by which a stopped job goes on where it was.

A round's answers are appended to a journal as they come, and its rows appear in a file at once when it is whole. So a
killed job asks for no answer twice, and no row is lost or there twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import xxhash

from rayloom.artifacts.durable import appearing
from rayloom.artifacts.work_copy import WorkCopy

SECONDS_BETWEEN_COPIES = 10.0


@dataclass(frozen=True)
class Ask:
    """One request for one answer."""

    key: str
    """Its place in the job, `ROUND/NAME/NUMBER`, different for every request."""
    prompt: str
    """The user message."""
    prompt_name: str
    """The prompt file that it was made by."""
    is_sampled: bool = True
    """Else the likeliest answer is wanted."""
    by_judge: bool = False
    max_new_tokens: int | None = None
    """Default: that of the job's sampling."""
    stop: tuple[str, ...] = ()
    """The answer ends before any of these."""

    @property
    def digest(self) -> str:
        return xxhash.xxh3_64_hexdigest(self.prompt.encode(errors="surrogatepass"))

    def seed(self, of_job: int) -> int:
        """The seed of this answer alone, so that it hangs on no order."""
        return xxhash.xxh3_64_intdigest(f"{of_job}/{self.key}".encode()) >> 33


@dataclass(frozen=True)
class ModelAnswer:
    """What came back for a request."""

    key: str
    text: str = ""
    num_tokens: int = 0
    num_prompt_tokens: int = 0
    is_cut: bool = False
    """Whether it ended only because it was as long as allowed."""
    model: str = ""
    """The model and its version."""
    by_judge: bool = False
    failed: str | None = None
    """Why there is no answer; it costs this request alone."""


class Writer(Protocol):
    """Answers requests."""

    def write(self, asks: Sequence[Ask]) -> Iterator[ModelAnswer]:
        """The answers, in whatever order. Raises a RayloomError where going on makes no sense."""

    def close(self) -> None: ...


@dataclass
class Found:
    """What became of a round."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """`row`, and the `prompt` and `answer` by which it is compared with others."""
    dropped: list[dict[str, Any]] = field(default_factory=list)
    """`reason`, `text`, and more about it."""
    accepted: list[dict[str, Any]] = field(default_factory=list)
    """New instructions that later rounds build on, whether or not a row was made of them."""

    def drop(self, reason: str, text: str, **more: Any) -> None:
        self.dropped.append({"reason": reason, "text": text} | more)


Steps = Generator[Sequence[Ask], list[ModelAnswer], Found]
"""A round as a task writes it: yields requests, is sent their answers in order, and returns what it found."""


def driven(steps: Steps, answer: Callable[[Sequence[Ask]], list[ModelAnswer]]) -> Found:
    """Runs a round to its end."""
    try:
        asks = next(steps)
        while True:
            asks = steps.send(answer(asks))
    except StopIteration as done:
        found: Found = done.value
        return found


class Rounds:
    """The work files of all rounds, `NNNNN.json` for a whole one and `NNNNN.answers.jsonl` for the one at work."""

    def __init__(self, copy: WorkCopy) -> None:
        self._copy = copy
        copy.folder.mkdir(parents=True, exist_ok=True)
        copy.fetch("")

    def finished(self, number: int) -> Found | None:
        """What became of a round; None if it is not whole."""
        file = self._file(number)
        return Found(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None

    def finish(self, number: int, found: Found) -> None:
        with appearing(self._file(number)) as unfinished:
            unfinished.write_text(json.dumps(asdict(found)), encoding="utf-8")
        self._copy.put(self._file(number).name)

    def journal(self, number: int) -> AnswerJournal:
        return AnswerJournal(self._copy, f"{number:05d}.answers.jsonl")

    def journals(self) -> Iterator[ModelAnswer]:
        """All answers of all rounds so far."""
        for file in sorted(self._copy.folder.glob("*.answers.jsonl")):
            yield from AnswerJournal(self._copy, file.name).known.values()

    def _file(self, number: int) -> Path:
        return self._copy.folder / f"{number:05d}.json"


class AnswerJournal:
    """The answers of one round, by request."""

    def __init__(self, copy: WorkCopy, name: str) -> None:
        self._copy, self._name = copy, name
        self._file = copy.folder / name
        self._copied = time.monotonic()
        self.known: dict[tuple[str, str], ModelAnswer] = dict(self._read())

    def answered(
        self, asks: Sequence[Ask], write: Callable[[Sequence[Ask]], Iterator[ModelAnswer]]
    ) -> list[ModelAnswer]:
        """The answer to each request; only those that are not here yet are asked for."""
        missing = {ask.key: ask for ask in asks if (ask.key, ask.digest) not in self.known}
        if missing:
            with self._file.open("a", encoding="utf-8") as lines:
                for answer in write(list(missing.values())):
                    digest = missing[answer.key].digest
                    lines.write(json.dumps(asdict(answer) | {"digest": digest}) + "\n")
                    lines.flush()
                    self.known[answer.key, digest] = answer
                    self._copy_now_and_then()
            self._copy.put(self._name)
        return [self.known[ask.key, ask.digest] for ask in asks]

    def _copy_now_and_then(self) -> None:
        if self._copy.is_needed and time.monotonic() - self._copied > SECONDS_BETWEEN_COPIES:
            self._copy.put(self._name)
            self._copied = time.monotonic()

    def _read(self) -> Iterator[tuple[tuple[str, str], ModelAnswer]]:
        """What is in the file; a line that a killed job began is cut off."""
        if not self._file.exists():
            return
        content = self._file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self._file.open("r+b") as file:
                file.truncate(len(whole))
        for line in whole.splitlines():
            values = json.loads(line)
            digest = values.pop("digest")
            yield (values["key"], digest), ModelAnswer(**values)
