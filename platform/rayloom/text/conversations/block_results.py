"""The rows of a data set, rendered by workers and kept on disk, and tables that say where each of them is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rayloom.reading.files import RowFile, table_blocks
from rayloom.specs.training.training_data import ConversationData, ConversationSource
from rayloom.text.conversations.render import Renderer
from rayloom.text.conversations.rendered_rows import (
    ROW,
    SAMPLE,
    BlockRenderer,
    ConversationCounts,
    RowsToRender,
)
from rayloom.text.conversations.row_sample import RowSample
from rayloom.text.packed.sample_file import SampleFile
from rayloom.text.row_problems import RowProblems
from rayloom.text.row_workers import RowWorkers


@dataclass(frozen=True)
class Rows:
    """Rendered rows in the order of the files. Shapes: N rows, D samples, each array one value for each."""

    samples: SampleFile
    names: Sequence[str]
    """The files' names, by their place."""
    table: NDArray[Any]
    """(N,) ROW."""
    contents: NDArray[np.int64]
    """(N,) equal for rows that train the same ids."""
    repeats: NDArray[np.int64]
    """(N,) how often the row stands in an epoch."""
    first_samples: NDArray[np.int64]
    """(N,) the first sample of each."""
    first_tokens: NDArray[np.int64]
    """(D,) where each sample begins in the file of samples."""
    lengths: NDArray[np.int64]
    """(D,) the tokens of each sample."""
    num_labels: NDArray[np.int64]
    """(D,) how many of them are labels."""

    @property
    def longest(self) -> NDArray[np.int32]:
        """(N,) tokens of each row's longest sample."""
        return self.table["length"]

    @property
    def num_samples(self) -> NDArray[np.int64]:
        """(N,) samples of each row."""
        return self.table["samples"].astype(np.int64)

    def origin(self, row: int) -> str:
        """Where a row was read: `file.json row 7`."""
        return f"{self.names[self.table['file'][row]]} row {self.table['number'][row]}"

    def shorten(self, row: int, num_tokens: int) -> bool:
        """Cuts the row's samples to so many tokens; whether each of them has a label left."""
        first = int(self.first_samples[row])
        for sample in range(first, first + int(self.num_samples[row])):
            self.lengths[sample] = min(self.lengths[sample], num_tokens)
            labels = self.samples.part("labels", self.first_tokens[sample], self.lengths[sample])
            self.num_labels[sample] = labels.sum()
        return bool(self.num_labels[first : first + int(self.num_samples[row])].all())


class BlockResults:
    """Renders the blocks of all sources; those that an earlier process rendered are taken from its scratch folder."""

    def __init__(
        self,
        data: ConversationData,
        files: Mapping[str, Sequence[RowFile]],
        renderer: Renderer,
        seed: int,
        scratch: Path,
        workers: RowWorkers,
        advance: Callable[[int, int], None],
        sample: RowSample | None = None,
    ) -> None:
        self.sample = sample
        self.data, self.seed, self.advance, self.workers = data, seed, advance, workers
        self.files = [files[f"data.sources.{number}.dataset"] for number in range(len(data.sources))]
        self.render = BlockRenderer(data, renderer)
        types = {"tokens": self.render.token_type, "rows": ROW, "samples": SAMPLE}
        self.samples = SampleFile(scratch, types)
        self._earlier = iter(list(self.samples.parts))
        self.left_out, self.unknown = Counter[str](), Counter[str]()
        self.problems = RowProblems(data.leave_out, self.left_out)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.samples.close()
        self.workers.close()

    def read(self, counts: ConversationCounts) -> Rows:
        """All rows after their filters and limits. Raises InputError naming every bad row."""
        for number, source in enumerate(self.data.sources):
            num_read = self._read(number, source)
            counts.rows_read[f"{number} {source.location}"] = self.sample.num_rows(number) if self.sample else num_read
        self.problems.raise_any()
        counts.left_out, counts.unknown_keys = dict(self.left_out), dict(self.unknown)
        self.samples.flush()
        table, samples = self.samples.table("rows"), self.samples.table("samples")
        first_samples = np.cumsum(table["samples"], dtype=np.int64) - table["samples"]
        lengths = samples["length"].astype(np.int64)
        order = np.lexsort((table["number"], table["file"]))
        table = table[order]
        pairs = np.ascontiguousarray(table["digest"]).view([("low", "<u8"), ("high", "<u8")]).ravel()
        return Rows(
            self.samples,
            [file.name for of_source in self.files for file in of_source],
            table,
            np.unique(pairs, return_inverse=True)[1],
            np.asarray([source.repeat for source in self.data.sources])[table["source"]],
            first_samples[order],
            np.cumsum(lengths) - lengths,
            lengths,
            samples["labels"].astype(np.int64),
        )

    def _read(self, number: int, source: ConversationSource) -> int:
        """Renders the rows of a source; returns how many were read."""
        if source.limit_rows is None:
            num_read = 0
            for part in self._rendered(number, None):
                num_read += part["num_read"]
                self._note(part["unreadable"], part["unknown_keys"])
            return num_read
        num_read, sizes = 0, []
        for found in self.workers.results(self.render, self._blocks(number, {})):
            num_read += found.num_read
            sizes.append(found.num_conversations)
            self._note(found.unreadable, found.unknown_keys)
        begins = np.cumsum([0, *sizes])
        # In an order of its own, so that a limit takes rows from everywhere.
        order = np.random.default_rng([self.seed, number]).permutation(int(begins[-1]))
        taken = self._take(number, source.limit_rows, order, begins)
        if taken < len(order):
            self.left_out["over_limit_rows"] += len(order) - taken
        return num_read

    def _take(self, number: int, limit: int, order: NDArray[np.int64], begins: NDArray[np.int64]) -> int:
        """Renders rows in this order until `limit` of them are kept; returns how many were looked at."""
        kept = taken = 0
        while kept < limit and taken < len(order):
            some = np.sort(order[taken : taken + limit - kept])
            block_of = np.searchsorted(begins, some, side="right") - 1
            chosen = {
                int(block): frozenset((some[block_of == block] - begins[block]).tolist())
                for block in np.unique(block_of)
            }
            taken += len(some)
            kept += sum(part["num_kept"] for part in self._rendered(number, chosen))
        return taken

    def _rendered(self, number: int, chosen: Mapping[int, frozenset[int]] | None) -> Iterator[dict[str, Any]]:
        """What is said of each block of a source, of which all rows or the chosen ones are rendered."""
        blocks = self._blocks(number, chosen)
        if chosen is not None:
            blocks = (asked for asked in blocks if asked.chosen)
        for part in self._known(blocks):
            self._note_rendered(part)
            yield part
        for found in self.workers.results(self.render, blocks):
            part = found.said()
            self.samples.add(found.arrays, part)
            self._note_rendered(part)
            yield part

    def _known(self, blocks: Iterator[RowsToRender]) -> Iterator[dict[str, Any]]:
        for part in self._earlier:
            if next(blocks, None) is None:  # it is one of the next source
                self._earlier = iter([part, *self._earlier])
                return
            yield part

    def _blocks(self, number: int, chosen: Mapping[int, frozenset[int]] | None) -> Iterator[RowsToRender]:
        before = sum(map(len, self.files[:number]))
        block = 0
        for place, file in enumerate(self.files[number]):
            blocks = table_blocks([file], self.data.sources[number])
            for rows in self.sample.blocks(number, place, blocks) if self.sample else blocks:
                some = None if chosen is None else chosen.get(block, frozenset())
                yield RowsToRender(number, before + place, rows, some)
                block += 1

    def _note(self, unreadable: Sequence[Sequence[str]], unknown_keys: Mapping[str, int]) -> None:
        self.unknown.update(unknown_keys)
        for origin, problem, said in unreadable:
            self.problems.add_said(origin, problem, said)

    def _note_rendered(self, part: Mapping[str, Any]) -> None:
        self.advance(part["num_read"], part["bytes_read"])
        self.left_out.update(part["left_out"])
        for origin, problem, said in part["problems"]:
            self.problems.add_said(origin, problem, said)
