"""Rows of conversations kept in the store's folder `.rows`, and found again by plans, trials and runs of the same rows.

A folder is named by all that its rows depend on: data, tokenizer, template and settings. Where a store is no folder of
this machine, rows stay in the job's work folder, from which its other nodes fetch them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayloom.artifacts.lock import exclusive
from rayloom.artifacts.store import Artifact, Store
from rayloom.reading.files import RowFile
from rayloom.reading.sources import row_files
from rayloom.specs.train import TrainSpec
from rayloom.text.conversations.chat_template import templates_of
from rayloom.text.tokenizer_files import tokenizer_digest

if TYPE_CHECKING:
    from rayloom.text.conversations.render import Renderer

ROWS_NAME = ".rows"
ROWS_VERSION = 1
"""Raised when the same data and settings give other rows."""


def source_stamps(spec: TrainSpec, parents: Mapping[str, Artifact]) -> dict[str, list[list[str]]]:
    """Names and stamps of the files of those sources that are no artifacts; each changes with the file's content."""
    sources = getattr(spec.data, "sources", ())
    fields = {f"data.sources.{number}.dataset": source for number, source in enumerate(sources)}
    return {
        field: [[file.name, getattr(file, "stamp", "")] for file in row_files(source, None)]
        for field, source in fields.items()
        if field not in parents
    }


def rows_key(
    spec: TrainSpec, parents: Mapping[str, Artifact], files: Mapping[str, list[RowFile]], renderer: Renderer
) -> str:
    """A name for the rows of a training job on conversations: equal names, equal rows."""
    data = spec.data.model_dump(mode="json")
    for number, source in enumerate(data["sources"]):
        field = f"data.sources.{number}.dataset"
        parent = parents.get(field)
        source["dataset"] = parent.manifest.digest if parent else None
        source["stamps"] = [] if parent else [[file.name, getattr(file, "stamp", "")] for file in files[field]]
    tokenizer = renderer.tokenizer
    settings: list[Any] = [ROWS_VERSION, spec.sequence_length_tokens, spec.seed, spec.packs_rows]
    about = [tokenizer_digest(tokenizer), templates_of(tokenizer), tokenizer.special_tokens_map, len(tokenizer)]
    key = json.dumps([*settings, data, *about, sorted(renderer.stop_tokens)], sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest()[:24]


def is_kept(store: Store, key: str, finished_name: str) -> bool:
    """Whether the store has the rows."""
    return store.is_local and (Path(store.root) / ROWS_NAME / key / finished_name).exists()


def kept(store: Store, key: str, finished_name: str, make: Callable[[Path], None], link: Path) -> None:
    """Makes `link` lead to the kept rows; if there are none, `make` writes them, the file of that name last.

    One process makes them, and others wait. One that is killed is followed by another that goes on where it was.
    """
    if not store.is_local:
        make(link)
        return
    place = Path(store.root) / ROWS_NAME / key
    place.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(place.with_name(f".{key}.lock")):
        if not (place / finished_name).exists():
            make(place)
    link.unlink(missing_ok=True)
    link.symlink_to(place, target_is_directory=True)
