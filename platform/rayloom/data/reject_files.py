"""The files of rejected and unreadable rows, and the samples for people, gathered by tasks from what passes wrote.

A file longer than `PART_BYTES` is cut into parts (`rules.jsonl`, `rules-00001.jsonl`, …), each written by one task.
Where it is cut depends on its lines only, not on the chunks. Samples are merged as a tree, some for each reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.data.exchange.judged_documents import as_lines
from rayloom.data.exchange.mail import Mail
from rayloom.data.exchange.result_files import ResultFiles
from rayloom.data.kept_documents import JudgedCorpus
from rayloom.data.passes import Passes, TaskCounts, summed
from rayloom.data.row_counts import chosen

FILES = {
    ("judged", "unreadable"): "unreadable",
    ("judged", "hits"): "contamination",
    ("judged", "rejects"): "rules",
    ("tokenised", "rejects"): "duplicates",
    ("rows", "rejects"): "rows",
    ("selected", "rejects"): "mixture",
    ("sifted", "rejects"): "perplexity",
}
"""File name (without ending) of the lines of each kind that a pass wrote, by the folder of its work files."""
PART_BYTES = 256 << 20
SAMPLES_PER_MERGE = 256
"""Groups of chunks whose samples one task merges."""

Written = Mapping[str, Mapping[str, Sequence[int]]]
"""Bytes of the lines that passes wrote about rows: by folder of work files, kind of lines, and group of chunks."""


@dataclass(frozen=True)
class LineFile:
    """One file of lines, and how it is cut into parts: whole lines, by the byte in which they begin."""

    folder: str
    kind: str
    name: str
    begins: tuple[int, ...]
    """Of each group of chunks, where its lines begin; the end of the file last."""
    first_part: int
    """The number of its first part among those of all files."""

    @property
    def num_parts(self) -> int:
        return -(-self.begins[-1] // PART_BYTES)

    def part_name(self, part: int) -> str:
        number = part - self.first_part
        return f"{self.name}-{number:05d}.jsonl" if number else f"{self.name}.jsonl"


def line_files(written: Written) -> list[LineFile]:
    """The files that have lines."""
    found: list[LineFile] = []
    for (folder, kind), name in FILES.items():
        begins = np.append(0, np.cumsum(written.get(folder, {}).get(kind, ()), dtype=np.int64))
        found.append(LineFile(folder, kind, name, tuple(begins.tolist()), sum(file.num_parts for file in found)))
    return [file for file in found if file.num_parts]


def gather(judged: JudgedCorpus, passes: Passes, written: Written) -> TaskCounts:
    """Writes the files; returns their entries (`stored`), the `samples`, and the `hits` of evaluation sets."""
    given = _Gathering(judged, tuple(written), line_files(written), ResultFiles(judged.work.copy))
    groups = range(len(judged.chunks.groups))
    num_merges = -(-len(groups) // SAMPLES_PER_MERGE)
    writes = {"lines": max(1, given.num_parts), "samples": num_merges}
    _, sent = passes.exchange("gathering rejects", groups, given.collect, writes=writes)
    joined, _ = passes.exchange("writing rejects", range(given.num_parts), given.join, reads=[sent["lines"]])
    merged, _ = passes.exchange("choosing samples", range(num_merges), given.merge, reads=[sent["samples"]])
    total = summed([{"stored": [], "samples": []}, *joined, *merged])
    return total | {"samples": chosen(total["samples"], judged.spec.sample_rows_per_reason)}


@dataclass(frozen=True)
class _Gathering:
    judged: JudgedCorpus
    folders: tuple[str, ...]
    files: list[LineFile]
    result: ResultFiles

    @property
    def num_parts(self) -> int:
        return sum(file.num_parts for file in self.files)

    def collect(self, group: int, mail: Mail) -> TaskCounts:
        """Sends the lines of a group's chunks to the parts in which they are, and samples of them."""
        judged = self.judged
        lines: dict[tuple[str, str], list[bytes]] = {}
        samples = []
        for chunk in judged.chunks.groups[group]:
            for folder in self.folders:
                parts = judged.work.read_parts(f"{folder}/{judged.chunks.name(chunk)}")
                samples += _rows(parts.get("samples", b""))
                for kind in parts.keys() & {file.kind for file in self.files if file.folder == folder}:
                    lines.setdefault((folder, kind), []).append(bytes(parts[kind]))
        for file in self.files:
            for part, its_lines in _parts_of(b"".join(lines.get((file.folder, file.kind), ())), file, group):
                mail.send("lines", "lines", its_lines, part)
        kept = as_lines(chosen(samples, judged.spec.sample_rows_per_reason))
        mail.send("samples", "samples", np.frombuffer(kept, np.uint8), group // SAMPLES_PER_MERGE)
        return {}

    def join(self, part: int, mail: Mail) -> TaskCounts:
        """Writes one part of a file."""
        file = max((file for file in self.files if file.first_part <= part), key=lambda file: file.first_part)
        content = mail.take("lines", np.uint8).tobytes()

        def save(folder: Path) -> None:
            (folder / "rejects").mkdir(exist_ok=True)
            (folder / "rejects" / file.part_name(part)).write_bytes(content)

        return self.result.write(save) | ({"hits": _hits(content)} if file.kind == "hits" else {})

    def merge(self, _: int, mail: Mail) -> TaskCounts:
        """Chooses among the samples of several groups."""
        rows = _rows(mail.take("samples", np.uint8).tobytes())
        return {"samples": chosen(rows, self.judged.spec.sample_rows_per_reason)}


def _rows(lines: bytes | memoryview) -> list[dict[str, Any]]:
    return [json.loads(line) for line in bytes(lines).split(b"\n") if line]


def _parts_of(content: bytes, file: LineFile, group: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """A group's lines as bytes, by the number of the part in which they are."""
    found = np.frombuffer(content, np.uint8)
    begins = np.append(0, np.flatnonzero(found == ord("\n")) + 1)
    parts = file.first_part + (file.begins[group] + begins[:-1]) // PART_BYTES
    for part in np.unique(parts).tolist():
        first, last = np.searchsorted(parts, (part, part + 1))
        yield part, found[begins[first] : begins[last]]


def _hits(lines: bytes) -> dict[str, dict[str, Any]]:
    """By evaluation set: the rows that occur in documents, and in how many documents."""
    rows: dict[str, set[int]] = {}
    documents: Counter[str] = Counter()
    for hit in _rows(lines):
        rows.setdefault(hit["evaluation_set"], set()).add(hit["evaluation_row"])
        documents[hit["evaluation_set"]] += 1
    return {name: {"rows": sorted(found), "hits": documents[name]} for name, found in rows.items()}
