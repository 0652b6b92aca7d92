"""Judgements on disk: each is one line, flushed to the disk before it is acknowledged; undoing is a line too."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rayloom.errors import InputError
from rayloom.ui.rating.items import RatedItem


@dataclass(frozen=True)
class RaterJudgement:
    """What a person said about an item."""

    item: str
    rater: str
    choice: str
    """left, right or tie as the rater saw them, or right, wrong or unsure; undo takes the rater's last one back."""
    note: str = ""
    is_swapped: bool | None = None
    """Whether the second answer stood on the left; None for a single row, whose `right` is no side."""
    time: str = ""

    @property
    def meant(self) -> str:
        """The choice in the order of the artifacts: first, second or tie; for rows as it is."""
        if self.is_swapped is None or self.choice not in ("left", "right"):
            return self.choice
        return "second" if (self.choice == "left") == self.is_swapped else "first"


UNDO = "undo"


class JudgementJournal:
    """The judgements of one rating. Several threads may add; the file is this process's alone."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.judgements = _read(path)
        self._file = path.open("ab")

    def add(self, judgement: RaterJudgement) -> None:
        """Returns when the line is on the disk. A second judgement of an item by the same rater replaces the first."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = {**asdict(judgement), "time": now}
        with self._lock:
            self._file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            _apply(self.judgements, RaterJudgement(**record))

    def of(self, rater: str) -> list[RaterJudgement]:
        """In the order in which they were made."""
        return [one for (_, name), one in self.judgements.items() if name == rater]

    def undo(self, rater: str) -> str | None:
        """Takes the rater's last judgement back; the item that it was about, or None if there is none."""
        made = self.of(rater)
        if not made:
            return None
        self.add(RaterJudgement(made[-1].item, rater, UNDO))
        return made[-1].item

    def next_item(self, items: Sequence[RatedItem], rater: str, each: int) -> RatedItem | None:
        """The first item that this rater has not judged and that fewer than `each` others have."""
        counts: dict[str, int] = {}
        for item, _ in self.judgements:
            counts[item] = counts.get(item, 0) + 1
        free = (one for one in items if (one.id, rater) not in self.judgements and counts.get(one.id, 0) < each)
        return next(free, None)

    def close(self) -> None:
        self._file.close()


Judgements = dict[tuple[str, str], RaterJudgement]
"""The valid judgement by item and rater, the last made last."""


def _apply(judgements: Judgements, judgement: RaterJudgement) -> None:
    judgements.pop((judgement.item, judgement.rater), None)
    if judgement.choice != UNDO:
        judgements[judgement.item, judgement.rater] = judgement


def _read(path: Path) -> Judgements:
    """The judgements so far. A last line that a kill cut off was never acknowledged, and goes.

    Raises InputError if another line is damaged.
    """
    judgements: Judgements = {}
    if not path.exists():
        return judgements
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            _apply(judgements, RaterJudgement(**json.loads(line)))
        except (ValueError, TypeError) as error:
            where = f"{path}, line {number}"
            raise InputError(f"This judgement is damaged ({error})", where=where, fix="Remove the line.") from None
    return judgements
