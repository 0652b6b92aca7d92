"""Judgements on disk: each is one line, flushed to the disk before it is acknowledged; undoing is a line too.

Beside them lies the key of what raters see (`blinding_key`), by which neither ids nor sides tell whose answer is whose.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rayloom.artifacts.durable import flush, write_durably
from rayloom.errors import InputError, ResourceError
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
    """The judgements of one rating. Several threads may ask and add; the file is this process's alone."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock, self._writing = path, threading.Lock(), threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._judgements = _read(path)
        self._file = path.open("ab", buffering=0)
        flush(path.parent)

    def add(self, judgement: RaterJudgement) -> RaterJudgement | None:
        """Returns when the line is on the disk. A second judgement of an item by the same rater replaces the first.

        Gives the one that it replaces. Raises ResourceError if it could not be kept; then nothing of it is.
        """
        record = {**asdict(judgement), "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        with self._writing:
            self._append(json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
            with self._lock:  # not while the disk writes, which can take seconds: pages are shown meanwhile
                earlier = self._judgements.get((judgement.item, judgement.rater))
                _apply(self._judgements, RaterJudgement(**record))
        return earlier

    def _append(self, line: bytes) -> None:
        size = os.fstat(self._file.fileno()).st_size
        try:
            if not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
                raise FileNotFoundError(2, "another file is there now")
            rest = line
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(size)  # half a line would spoil the next one
            what = (
                f"This is not kept: the file of judgements cannot be written ({(error.strerror or str(error)).lower()})"
            )
            fix = "What was judged before is kept. Make room, or bring the store back, and send it again."
            raise ResourceError(what, where=str(self._path), fix=fix) from error

    def all(self) -> list[RaterJudgement]:
        """In the order in which they were made."""
        with self._lock:
            return list(self._judgements.values())

    def of(self, rater: str) -> list[RaterJudgement]:
        """One rater's, in the order in which they were made."""
        return [one for one in self.all() if one.rater == rater]

    def undo(self, rater: str, item: str) -> bool:
        """Takes the rater's judgement of an item back; whether there was one. Asking twice takes back one."""
        with self._writing:
            is_judged = (item, rater) in self._judgements
            if is_judged:
                self.add(RaterJudgement(item, rater, UNDO))
        return is_judged

    def next_item(
        self, items: Sequence[RatedItem], rater: str, each: int, on_pages: Mapping[str, str]
    ) -> RatedItem | None:
        """The first item that this rater has not judged and that fewer than `each` others have, or have on their page.

        `on_pages`: an item's id by rater. What is on too many pages comes when nothing else is left: people go away.
        """
        judged_by: dict[str, set[str]] = {}
        for one in self.all():
            judged_by.setdefault(one.item, set()).add(one.rater)
        seen_by = {item: set(names) for item, names in judged_by.items()}
        for name, item in on_pages.items():
            if name != rater:
                seen_by.setdefault(item, set()).add(name)
        wanted = [item for item in items if rater not in judged_by.get(item.id, ()) and _fewer(judged_by, item, each)]
        return next((item for item in wanted if _fewer(seen_by, item, each)), wanted[0] if wanted else None)

    def close(self) -> None:
        self._file.close()


def blinding_key(path: Path) -> bytes:
    """The secret of the rating whose judgements are in `path`, made at first use.

    Answers are on the page and Rayloom's code is public: whatever only these decide, a rater can work out.
    """
    file = path.with_suffix(".key")
    if not file.exists():
        write_durably(file, secrets.token_hex(32))
        file.chmod(0o600)
    return file.read_text(encoding="ascii").encode()


def _fewer(raters: Mapping[str, Collection[str]], item: RatedItem, each: int) -> bool:
    return len(raters.get(item.id, ())) < each


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
