"""`output: rows` after judging: finds conflicting labels, splits into train, validation and test, writes the files."""

from __future__ import annotations

import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

from rayloom.artifacts.build import Build
from rayloom.artifacts.files import read_json_lines
from rayloom.data import audit
from rayloom.data.kept_documents import JudgedCorpus
from rayloom.data.labelled import split_rows, wrong_labels
from rayloom.data.labelled.split_rows import PARTS, PartCuts, RowsPass
from rayloom.data.passes import Passes, TaskCounts
from rayloom.errors import InputError
from rayloom.specs.cleaning.augmentation import SynonymReplacement
from rayloom.specs.cleaning.output import RowsOutput

MAX_LABELS = 10_000


def make(judged: JudgedCorpus, build: Build, passes: Passes) -> dict[str, Any]:
    """Writes the rows into the artifact; returns all counts about them."""
    given = RowsPass(judged, _labels(judged), _synonyms(judged, build))
    every = range(len(judged.chunks))
    in_doubt = _doubtful(given, passes)

    def cut() -> list[TaskCounts]:
        found = split_rows.part_cuts(given, passes.each)
        return [{"test": found.test, "validation": found.validation, "balanced": found.balanced}]

    (found,) = passes.once("parts", cut)
    where = PartCuts(*(tuple(found[name]) for name in ("test", "validation", "balanced")))
    write = functools.partial(split_rows.write, given, where)
    records = passes.once("rows", lambda: passes.each("writing rows", every, write))
    audit.check_parts(judged.spec, {part: sum(record["documents"][part] for record in records) for part in PARTS})
    folder = judged.scratch.folder("rows")
    for part in PARTS:
        audit.gather(folder, judged.chunks, f"{part}.jsonl", build.directory / f"{part}.jsonl")
    _review(folder, judged.chunks, build.directory / "review" / "likely_wrong_labels.jsonl")
    counts = audit.added(judged.tally, records)
    numbers = audit.publish(judged, build.directory, [judged.scratch.folder("judged"), folder], counts)
    augmented: Counter[str] = Counter()
    for record in records:
        augmented.update(record["augmented"])
    numbers |= {"augmented_rows": dict(augmented)} if given.output.augmentation else {}
    if given.labels == ("",):
        return numbers
    labels: Counter[str] = Counter()
    for record in records:
        labels.update(record["labels"])
    by_part = {part: {label: labels[f"{part}/{label}"] for label in given.labels} for part in PARTS}
    return numbers | {"labels": by_part, "likely_wrong_labels": in_doubt}


def _synonyms(judged: JudgedCorpus, build: Build) -> dict[int, Path]:
    assert isinstance(judged.spec.output, RowsOutput)
    wanted = judged.spec.output.augmentation
    return {
        number: build.parents[f"output.augmentation.methods.{number}.words"].path
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

    def work() -> list[TaskCounts]:
        passes.each("collecting labels", range(len(given.chunks)), functools.partial(wrong_labels.send_members, doubt))
        return passes.each(
            "comparing labels", range(given.judged.num_buckets), functools.partial(wrong_labels.find, doubt)
        )

    return sum(record["clusters"] for record in passes.once("labels", work))


def _review(folder: Path, chunks: tuple[str, ...], target: Path) -> None:
    """Writes the rows with conflicting labels, those of one cluster together."""
    files = [path for chunk in chunks if (path := folder / f"{chunk}.doubt.jsonl").exists()]
    rows = [row for path in files for row in read_json_lines(path)]
    if not rows:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    numbers = {group: number for number, group in enumerate(sorted({row["group"] for row in rows}), start=1)}
    rows.sort(key=lambda row: row["group"])
    lines = [json.dumps(row | {"group": numbers[row["group"]]}, ensure_ascii=False) for row in rows]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
