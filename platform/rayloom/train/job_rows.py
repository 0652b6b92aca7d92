"""The prepared rows of a training job, made by the type of its data; and how many of them there are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from rayloom.artifacts.durable import write_durably
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.observe.progress import EstimatedTotal, progress
from rayloom.reading.files import RowFile
from rayloom.reading.sources import row_files
from rayloom.specs.row_files import SourceOfRows
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.labelled_data import LabelledData
from rayloom.specs.training.preferences import Kto, PreferenceData
from rayloom.specs.training.tasks import step_separator_of
from rayloom.specs.training.training_data import ConversationData
from rayloom.text.labelled.encoding import TaskEncoder
from rayloom.text.row_workers import RowWorkers
from rayloom.train.kept_rows import is_kept, kept, rows_key
from rayloom.train.objectives.prompted import asked_of, prepare_prompted

COUNTS_NAME = "counts.json"
DATA_NAME = "data"
"""The folder of prepared rows in the work folder."""

SHARE_NAME = "share_looked_at"
"""In the counts: of a sample, the share of all rows."""


def conversation_rows(
    spec: TrainSpec,
    parents: Mapping[str, Artifact],
    folder: Path,
    tokenizer: Path,
    workers: RowWorkers | None = None,
    store: Store | None = None,
    *,
    may_sample: bool = False,
) -> Path:
    """Folder with `train/`, `heldout/` and row counts, rendered from conversations unless it is complete already."""
    data = spec.data
    if (folder / COUNTS_NAME).exists() or not isinstance(data, ConversationData):
        return folder
    from rayloom.text.conversations.dataset import prepare
    from rayloom.text.conversations.render import Renderer
    from rayloom.text.conversations.row_sample import RowSample, size_of

    if "base" not in parents:
        raise InputError("Conversations need a base with a chat template", fix="Give base.")
    files = source_files(data.sources, parents)
    renderer = Renderer.of_model(tokenizer, template_kwargs=data.chat_template_kwargs)
    total_bytes = sum(map(size_of, chain(*files.values())))

    def make(place: Path, sample: RowSample | None = None) -> None:
        with progress("rendering conversations", unit="rows") as bar:
            counts = prepare(
                data,
                files,
                renderer,
                spec.sequence_length_tokens,
                spec.seed,
                place,
                EstimatedTotal(bar, total_bytes).advance,
                packs_rows=spec.packs_rows,
                workers=workers,
                sample=sample,
            )
        share = {SHARE_NAME: sample.share} if sample else {}
        write_durably(place / COUNTS_NAME, json.dumps(counts.as_json() | share, indent=2))

    key = rows_key(spec, parents, files, renderer)
    sample = RowSample.of(list(files.values())) if may_sample else None
    if sample is not None and not (store and is_kept(store, key, COUNTS_NAME)):
        make(folder, sample)
    elif store is None:
        make(folder)
    else:
        kept(store, key, COUNTS_NAME, make, folder)
    return folder


def labelled_task_rows(spec: TrainSpec, parents: Mapping[str, Artifact], folder: Path) -> Path:
    """As `conversation_rows`, for labelled texts."""
    data = spec.data
    if (folder / COUNTS_NAME).exists() or not isinstance(data, LabelledData) or spec.task is None:
        return folder
    from rayloom.text.labelled.dataset import prepare_labelled

    base, length, files = parents["base"].path, spec.sequence_length_tokens, source_files(data.sources, parents)
    with progress("encoding texts", unit="rows") as bar:
        if spec.prompt is not None:
            asked = asked_of(spec.prompt, base)
            counts = prepare_prompted(data, files, asked, length, spec.seed, folder, bar.advance)
        elif spec.headed_task is not None:
            encoder = TaskEncoder.of_folder(spec.headed_task, base, length)
            counts = prepare_labelled(data, files, encoder, spec.seed, folder, bar.advance)
    (folder / COUNTS_NAME).write_text(json.dumps(counts.as_json(), indent=2))
    return folder


def preference_rows(
    spec: TrainSpec, parents: Mapping[str, Artifact], folder: Path, workers: RowWorkers | None = None
) -> Path:
    """As `conversation_rows`, for answers with preferences."""
    data = spec.data
    if (folder / COUNTS_NAME).exists() or not isinstance(data, PreferenceData):
        return folder
    from rayloom.text.conversations.preference_rows import prepare_preferences
    from rayloom.text.conversations.render import Renderer
    from rayloom.text.conversations.step_rows import prepare_steps

    renderer = Renderer.of_model(parents["base"].path, template_kwargs=data.chat_template_kwargs)
    files, length = source_files(data.sources, parents), spec.sequence_length_tokens
    is_paired, separator = not isinstance(spec.preference, Kto), step_separator_of(spec.headed_task)
    with progress("rendering answers", unit="rows") as bar:
        if separator is not None:
            counts = prepare_steps(data, files, renderer, separator, length, spec.seed, folder, bar.advance)
        else:
            counts = prepare_preferences(
                data,
                files,
                renderer,
                length,
                spec.seed,
                folder,
                is_paired=is_paired,
                has_margins=spec.learns_reward,
                advance=bar.advance,
                workers=workers,
            )
    (folder / COUNTS_NAME).write_text(json.dumps(counts.as_json(), indent=2))
    return folder


def source_files(sources: Sequence[SourceOfRows], parents: Mapping[str, Artifact]) -> dict[str, list[RowFile]]:
    """The files of each source, from a data set or a URI, by the dotted path of its reference in the spec."""
    fields = [f"data.sources.{number}.dataset" for number in range(len(sources))]
    return {field: row_files(source, parents.get(field)) for field, source in zip(fields, sources, strict=True)}


def row_counts(work: Path) -> dict[str, Any]:
    """Counts of rows kept and left out; empty for a corpus, which has them in its own artifact."""
    file = work / DATA_NAME / COUNTS_NAME
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found
