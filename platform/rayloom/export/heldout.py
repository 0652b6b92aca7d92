"""The rows on which quality is measured, and those on which ranges and rounding are fitted; never the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rayloom.artifacts.store import Artifact
from rayloom.artifacts.training import training_of
from rayloom.errors import InputError
from rayloom.specs.export import QuantizeSpec
from rayloom.text.shards import Row, TokenShards

CALIBRATION_EVERY = 4
"""Where one job's held-out rows do both, so many of them make one that calibrates."""
CORPUS_ROW_TOKENS = 512


class SomeRows:
    """At least one and otherwise at most about `max_tokens` tokens' worth of rows, spread evenly over `among`."""

    def __init__(self, rows: TokenShards, max_tokens: int, among: Sequence[int] | None = None) -> None:
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


def rows_for(spec: QuantizeSpec, parents: Mapping[str, Artifact]) -> tuple[SomeRows, SomeRows | None]:
    """Rows that measure, and rows that calibrate where the scheme does that. Raises InputError where there are none."""
    heldout = _heldout(parents["rows_of"], "rows_of")
    if not spec.scheme.calibrates:
        return SomeRows(heldout, spec.max_measured_tokens), None
    other = parents.get("calibration.rows_of")
    if other is not None and other.manifest.digest != parents["rows_of"].manifest.digest:
        calibration = _rows_to_calibrate_on(other)
        return SomeRows(heldout, spec.max_measured_tokens), SomeRows(calibration, spec.calibration.max_tokens)
    numbers = range(len(heldout))
    calibrating = numbers[CALIBRATION_EVERY - 1 :: CALIBRATION_EVERY] or numbers[1:]
    if not calibrating:
        what = f"{parents['rows_of'].id} has one held-out row, which cannot both calibrate and measure"
        raise InputError(what, where="rows_of", fix="Name other rows with calibration.rows_of, or hold out more.")
    measuring = [number for number in numbers if number not in calibrating]
    measured = SomeRows(heldout, spec.max_measured_tokens, measuring)
    return measured, SomeRows(heldout, spec.calibration.max_tokens, calibrating)


def _heldout(trained: Artifact, field: str) -> TokenShards:
    length = training_of(trained.manifest).get("sequence_length_tokens")
    if not isinstance(length, int) or not (trained.path / "heldout").is_dir():
        what = f"{trained.id} has no held-out rows"
        raise InputError(what, where=field, fix="Name the artifact of a `train` job.")
    rows = TokenShards(trained.path / "heldout", length)
    if not len(rows):
        what = f"The held-out rows of {trained.id} are empty"
        raise InputError(what, where=str(rows.directory), fix="Raise data.heldout_rows and train again.")
    return rows


def _rows_to_calibrate_on(artifact: Artifact) -> TokenShards:
    if artifact.manifest.content != "corpus":
        return _heldout(artifact, "calibration.rows_of")
    return TokenShards(artifact.path / "train", CORPUS_ROW_TOKENS)


def check_tokenizer(model: Path, *several: SomeRows | None) -> None:
    """Raises InputError where rows have another tokenizer's ids than the model's."""
    from transformers import AutoTokenizer

    from rayloom.text.tokenizer_digest import tokenizer_digest

    digest = tokenizer_digest(AutoTokenizer.from_pretrained(model))
    for rows in several:
        if rows is not None and rows.rows.tokenizer_digest != digest:
            what = "These rows were made with another tokenizer than this model's"
            fix = "Name a training job or corpus with this model's tokenizer."
            raise InputError(what, where=str(rows.rows.directory), fix=fix)
