"""`output: rows` after judging: finds conflicting labels, splits into train, validation and test, writes the files."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rayloom.artifacts.build import Build
from rayloom.artifacts.store import Artifact
from rayloom.data import audit
from rayloom.data.exchange.result_files import ResultFiles
from rayloom.data.kept_documents import JudgedCorpus, group_records
from rayloom.data.labelled import split_rows, wrong_labels
from rayloom.data.labelled.split_rows import PARTS, PartCuts, RowsPass
from rayloom.data.passes import Passes, TaskCounts, summed
from rayloom.errors import InputError
from rayloom.specs.cleaning.augmentation import SynonymReplacement
from rayloom.specs.cleaning.output import RowsOutput

MAX_LABELS = 10_000


def make(judged: JudgedCorpus, build: Build, passes: Passes) -> TaskCounts:
    """Writes the rows into the artifact; returns all counts about it, and as `stored` the files in the bucket."""
    given = RowsPass(judged, _labels(judged), _synonyms(judged, build))
    in_doubt = _doubtful(given, passes)

    def cut() -> TaskCounts:
        found = split_rows.part_cuts(given, passes)
        return {"test": found.test, "validation": found.validation, "balanced": found.balanced}

    found = passes.once("parts", cut)
    where = PartCuts(*(tuple(found[name]) for name in ("test", "validation", "balanced")))
    write = functools.partial(split_rows.write, given, where)
    record = passes.once("rows", lambda: group_records(judged.each(passes, "writing rows", write)))
    audit.check_parts(judged.spec, {part: record["documents"].get(part, 0) for part in PARTS})
    stored = _write_files(given, passes)
    counts = audit.added(judged.tally, [record])
    written = {"judged": judged.judged_bytes, "rows": {"rejects": record["rejects_bytes"]}}
    numbers = audit.publish(judged, build.directory, passes, written, counts, stored)
    numbers |= {"augmented_rows": record["augmented"]} if given.output.augmentation else {}
    if given.labels == ("",):
        return numbers
    labels: Counter[str] = Counter(record["labels"])
    by_part = {part: {label: labels[f"{part}/{label}"] for label in given.labels} for part in PARTS}
    return numbers | {"labels": by_part, "likely_wrong_labels": in_doubt}


def _write_files(given: RowsPass, passes: Passes) -> list[dict[str, Any]]:
    """Writes the rows of each part, each file in one task; returns the entries of the files that are in the bucket."""
    judged = given.judged
    result = ResultFiles(judged.work.copy)

    def lines(kind: str) -> Iterator[bytes]:
        for chunk in range(len(judged.chunks)):
            content = bytes(judged.work.read_parts(f"rows/{judged.chunks.name(chunk)}")[kind])
            if content:
                yield content

    def write(number: int) -> TaskCounts:
        kind = (*PARTS, "doubt")[number]
        return result.write(lambda folder: _save(folder, kind, lines(kind)))

    return list(summed(passes.each("writing files", range(len(PARTS) + 1), write))["stored"])


def _save(folder: Path, kind: str, contents: Iterator[bytes]) -> None:
    if kind == "doubt":
        _review(b"".join(contents), folder / "review" / "likely_wrong_labels.jsonl")
        return
    first = next(contents, None)
    if first is not None:
        with (folder / f"{kind}.jsonl").open("wb") as file:
            file.writelines(itertools.chain([first], contents))


def _synonyms(judged: JudgedCorpus, build: Build) -> dict[int, Artifact]:
    assert isinstance(judged.spec.output, RowsOutput)
    wanted = judged.spec.output.augmentation
    return {
        number: build.parents[f"output.augmentation.methods.{number}.words"]
        for number, method in enumerate(wanted.methods if wanted else ())
        if isinstance(method, SynonymReplacement)
    }


def _labels(judged: JudgedCorpus) -> tuple[str, ...]:
    found = sorted({name.split("/", 1)[1] for name in judged.tally.labels})
    if len(found) > MAX_LABELS:
        what = f"There are {len(found):,} different labels, such as {found[0]!r} and {found[1]!r}"
        raise InputError(what, fix=f"Name a column of classes (at most {MAX_LABELS:,}) as label_column.")
    return tuple(found) or ("",)


def _doubtful(given: RowsPass, passes: Passes) -> int:
    """The number of clusters of duplicates with several labels."""
    doubt = given.doubt
    if doubt is None:
        return 0

    return int(passes.once("labels", lambda: wrong_labels.find_doubtful(doubt, passes))["clusters"])


def _review(lines: bytes, target: Path) -> None:
    """Writes the rows with conflicting labels, those of one cluster together."""
    rows = [json.loads(line) for line in lines.split(b"\n") if line]
    if not rows:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    numbers = {group: number for number, group in enumerate(sorted({row["group"] for row in rows}), start=1)}
    rows.sort(key=lambda row: row["group"])
    numbered = [json.dumps(row | {"group": numbers[row["group"]]}, ensure_ascii=False) for row in rows]
    target.write_text("\n".join(numbered) + "\n", encoding="utf-8")
