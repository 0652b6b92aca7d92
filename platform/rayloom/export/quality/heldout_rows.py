"""The rows that measure quality, and those that calibrate ranges and rounding; never the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from rayloom.artifacts.lineage import training_of
from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.reading.sources import row_files
from rayloom.specs.export import QuantizeSpec
from rayloom.specs.row_files import RowFiles
from rayloom.text.packed.shards import Row, TokenShards
from rayloom.text.packed.text_rows import TextRows, text_rows

CALIBRATION_EVERY = 4
"""If one job's held-out rows serve both purposes, one in this many calibrates."""
CORPUS_ROW_TOKENS = 512


class SampledRows:
    """Rows of about `max_tokens` tokens in all, at least one, evenly spaced over `among`."""

    def __init__(self, rows: TokenShards | TextRows, max_tokens: int, among: Sequence[int] | None = None) -> None:
        self.rows = rows
        choice = range(len(rows)) if among is None else among
        wanted = max(1, min(len(choice), max_tokens * len(rows) // max(1, rows.num_tokens)))
        self.numbers = [choice[place] for place in np.linspace(0, len(choice) - 1, wanted).round().astype(int)]

    def __len__(self) -> int:
        return len(self.numbers)

    def row(self, index: int) -> Row:
        return self.rows.row(self.numbers[index])

    @property
    def num_tokens(self) -> int:
        return sum(len(self.row(index).tokens) for index in range(len(self)))


class CalibrationRows(Protocol):
    """Calibration rows: read from shards, or tokenised again for this model."""

    def __len__(self) -> int: ...
    def row(self, index: int) -> Row: ...
    @property
    def num_tokens(self) -> int: ...


class RetokenizedRows:
    """Rows of another tokenizer, decoded and encoded again with the model's own, document by document."""

    def __init__(self, rows: SampledRows, their_tokenizer: Path, our_tokenizer: Path) -> None:
        self._rows, self._theirs, self._ours = rows, their_tokenizer, our_tokenizer

    def __len__(self) -> int:
        return len(self._retokenized)

    def row(self, index: int) -> Row:
        return self._retokenized[index]

    @property
    def num_tokens(self) -> int:
        return sum(len(row.tokens) for row in self._retokenized)

    @cached_property
    def _retokenized(self) -> list[Row]:
        from rayloom.pretrained import AutoTokenizer

        theirs, ours = (AutoTokenizer.from_pretrained(path) for path in (self._theirs, self._ours))

        def retokenized(row: Row) -> Iterator[list[int]]:
            for document in np.split(row.tokens, np.flatnonzero(row.positions == 0)[1:]):
                text = theirs.decode(document, skip_special_tokens=True)
                yield ours(text, add_special_tokens=False)["input_ids"]

        return [_packed([*retokenized(self._rows.row(index))]) for index in range(len(self._rows))]


def _packed(documents: Sequence[Sequence[int]]) -> Row:
    tokens = np.concatenate([np.asarray(document, dtype=np.int64) for document in documents])
    positions = np.concatenate([np.arange(len(document)) for document in documents])
    return Row(tokens, positions > 0, positions)


def rows_for(spec: QuantizeSpec, parents: Mapping[str, Artifact]) -> tuple[SampledRows, CalibrationRows | None]:
    """Rows that measure, and calibration rows or None if the scheme needs none. Raises InputError if there are none."""
    num_tokens = spec.max_measured_tokens + spec.calibration.max_tokens
    heldout = _heldout(parents["rows_of"], "rows_of", parents, num_tokens)
    if not spec.scheme.calibrates:
        return SampledRows(heldout, spec.max_measured_tokens), None
    other = parents.get("calibration.rows_of")
    if other is not None and other.manifest.digest != parents["rows_of"].manifest.digest:
        shards = _rows_to_calibrate_on(other, parents, spec.calibration.max_tokens)
        chosen = SampledRows(shards, spec.calibration.max_tokens)
        calibrating: CalibrationRows = chosen
        if shards.tokenizer_digest != heldout.tokenizer_digest:
            calibrating = RetokenizedRows(chosen, _tokenizer_of(other), parents["model"].path)
        return SampledRows(heldout, spec.max_measured_tokens), calibrating
    numbers = range(len(heldout))
    spared = numbers[CALIBRATION_EVERY - 1 :: CALIBRATION_EVERY] or numbers[1:]
    if not spared:
        what = f"{parents['rows_of'].id} has one held-out row, which cannot both calibrate and measure"
        raise InputError(what, where="rows_of", fix="Name other rows with calibration.rows_of, or hold out more.")
    measuring = [number for number in numbers if number not in spared]
    measured = SampledRows(heldout, spec.max_measured_tokens, measuring)
    return measured, SampledRows(heldout, spec.calibration.max_tokens, spared)


def _heldout(trained: Artifact, field: str, parents: Mapping[str, Artifact], max_tokens: int) -> TokenShards | TextRows:
    """Held-out rows of a training job or a corpus, or rows of a data set in the model's tokens."""
    if trained.manifest.content == "dataset":
        return text_rows(row_files(RowFiles(), trained), parents["model"].path, max_tokens, trained.path)
    is_corpus = trained.manifest.content == "corpus"
    length = CORPUS_ROW_TOKENS if is_corpus else training_of(trained.manifest).get("sequence_length_tokens")
    if not isinstance(length, int) or not (trained.path / "heldout").is_dir():
        what = f"{trained.id} has no held-out rows"
        fix = "Name the artifact of a `train` job, a corpus, or a data set of texts or conversations."
        raise InputError(what, where=field, fix=fix)
    rows = TokenShards(trained.path / "heldout", length)
    if not len(rows):
        what = f"The held-out rows of {trained.id} are empty"
        raise InputError(what, where=str(rows.directory), fix="Hold out more rows, and make it again.")
    return rows


def _rows_to_calibrate_on(
    artifact: Artifact, parents: Mapping[str, Artifact], max_tokens: int
) -> TokenShards | TextRows:
    if artifact.manifest.content != "corpus":
        return _heldout(artifact, "calibration.rows_of", parents, max_tokens)
    rows = TokenShards(artifact.path / "train", CORPUS_ROW_TOKENS)
    if not len(rows):
        what = f"{artifact.id} is too small to calibrate on: it has less than {CORPUS_ROW_TOKENS} tokens"
        raise InputError(what, where="calibration.rows_of", fix="Name a larger corpus, or leave it out.")
    return rows


def _tokenizer_of(artifact: Artifact) -> Path:
    return artifact.path / "tokenizer" if artifact.manifest.content == "corpus" else artifact.path


def check_tokenizer(model: Path, measured: SampledRows) -> None:
    """Raises InputError if the rows were made with another tokenizer than the model's."""
    from rayloom.pretrained import AutoTokenizer
    from rayloom.text.tokenizer_files import tokenizer_digest

    if measured.rows.tokenizer_digest != tokenizer_digest(AutoTokenizer.from_pretrained(model)):
        what = "These rows were made with another tokenizer than this model's"
        fix = "Name a training job with this model's tokenizer."
        raise InputError(what, where=str(measured.rows.directory), fix=fix)
