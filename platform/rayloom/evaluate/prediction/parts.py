"""A prediction's rows in parts: read the same each time, answered once, joined in order."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayloom.artifacts.durable import appearing
from rayloom.artifacts.files import read_json_lines
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.errors import InputError
from rayloom.reading.files import RowFile, text_or_table_rows
from rayloom.reading.records import BadRow
from rayloom.specs.predict import PredictSpec

PREDICTIONS_FILE = "predictions.jsonl"
FAILED_FILE = "failed.jsonl"
PARTS_NAME = "parts"
"""The folder of parts in the work folder."""
HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
"""What JSON can say and UTF-8 cannot."""


@dataclass(frozen=True)
class Parts:
    """Files `NNNNN.rows.jsonl` with what is asked and `NNNNN.answers.jsonl` with what was found, in the work folder.

    If nodes share no disk, each has its own folder, and its copy in the store has all parts.
    """

    copy: WorkCopy

    @property
    def folder(self) -> Path:
        return self.copy.folder / PARTS_NAME

    def questions(self, number: int) -> Path:
        """The file of a part's rows, which is fetched if it is not on this node."""
        return self._here(f"{number:05d}.rows.jsonl")

    def answers(self, number: int) -> Path:
        """The file of a part's answers, which is fetched if it is not on this node."""
        return self._here(f"{number:05d}.answers.jsonl")

    def missing(self, num_parts: int) -> list[int]:
        """The parts that are not answered yet."""
        names = {path.name for path in self.folder.glob("*.answers.jsonl")}
        names |= {name.rpartition("/")[2] for name in self.copy.sizes(PARTS_NAME)} if self.copy.is_needed else set()
        return [number for number in range(num_parts) if f"{number:05d}.answers.jsonl" not in names]

    def keep(self, file: Path) -> None:
        """Makes a part's file available to the other nodes."""
        self.copy.put(f"{PARTS_NAME}/{file.name}")

    def _here(self, name: str) -> Path:
        file = self.folder / name
        if not file.exists():
            self.copy.fetch(f"{PARTS_NAME}/{name}")
        return file


def write_parts(spec: PredictSpec, files: Sequence[RowFile], parts: Parts) -> int:
    """Cuts the rows into parts on disk; how many rows there are. Raises InputError where there is none."""
    parts.folder.mkdir(parents=True, exist_ok=True)
    total, part = 0, []
    for origin, row in text_or_table_rows(files, spec, spec.limit_rows):
        part.append(_line(spec, origin, row))
        total += 1
        if len(part) == spec.rows_per_part:
            _write_questions(part, parts, (total - 1) // spec.rows_per_part)
            part = []
    if part:
        _write_questions(part, parts, (total - 1) // spec.rows_per_part)
    if not total:
        raise InputError("There is no row to predict", where="data", fix="Correct `files`.")
    return total


def _write_questions(lines: Sequence[str], parts: Parts, number: int) -> None:
    file = parts.folder / f"{number:05d}.rows.jsonl"
    _write(lines, file)
    parts.keep(file)


def _line(spec: PredictSpec, origin: str, row: Any) -> str:
    line = json.dumps(asked(spec, origin, row), ensure_ascii=False, default=str)
    if line.isascii() or not HALF_A_CHARACTER.search(line):
        return line
    bad = BadRow(0, "half_a_character", "it has half of a pair of surrogates, such as \\ud83d")
    return json.dumps(asked(spec, origin, bad), ensure_ascii=False)


def asked(spec: PredictSpec, origin: str, row: Any) -> dict[str, Any]:
    """What a responder gets of a row, with where it came from and the columns to keep."""
    if isinstance(row, BadRow):
        return {"origin": origin, "text": None, "unreadable": str(row), "kept": dict.fromkeys(spec.keep)}
    found = row if isinstance(row, Mapping) else {}
    pair = {} if spec.pair is None else {"pair": found.get(spec.pair)}
    marks = {name: found[name] for name in ("head", "tail") if name in found}
    kept = {name: found.get(name) for name in spec.keep}
    return {"origin": origin, "text": found.get(spec.text), **pair, **marks, "kept": kept}


def read_part(file: Path) -> list[dict[str, Any]]:
    return list(read_json_lines(file))


def write_answers(
    rows: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], parts: Parts, number: int
) -> None:
    """One line for each row; the part's file appears at once."""
    lines = [
        json.dumps({"origin": row["origin"], **row["kept"], "text": row["text"], **answer}, ensure_ascii=False)
        for row, answer in zip(rows, found, strict=True)
    ]
    file = parts.folder / f"{number:05d}.answers.jsonl"
    _write(lines, file)
    parts.keep(file)


def joined(parts: Parts, num_parts: int, out: Path) -> tuple[int, list[dict[str, Any]]]:
    """Writes all answers in order, and those that failed to a file of their own; how many, and which failed."""
    parts.copy.fetch(PARTS_NAME)
    total, failed = 0, []
    with (out / PREDICTIONS_FILE).open("w", encoding="utf-8") as good:
        for answer in _all(parts, num_parts):
            total += 1
            if "failed" in answer:
                failed.append(answer)
            else:
                good.write(json.dumps(answer, ensure_ascii=False) + "\n")
    lines = [json.dumps(answer, ensure_ascii=False) for answer in failed]
    (out / FAILED_FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return total, failed


def _all(parts: Parts, num_parts: int) -> Iterator[dict[str, Any]]:
    for number in range(num_parts):
        yield from read_part(parts.answers(number))


def _write(lines: Sequence[str], file: Path) -> None:
    with appearing(file) as unfinished:
        unfinished.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
