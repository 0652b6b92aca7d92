"""A job's settings by dotted path, and unfinished runs of the same name with different settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rayloom.artifacts.manifest import MANIFEST_NAME, WORK_NAME
from rayloom.artifacts.store import Store
from rayloom.specs.base import fingerprinted
from rayloom.specs.train import TrainSpec

SETTINGS_NAME = "settings.json"
MAX_SHOWN = 4
MAX_CHARACTERS = 500


def by_path(values: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, value) of every leaf, such as (`sharding.zero_stage`, `2`). Lists are leaves."""
    if isinstance(values, dict) and values:
        for key, inner in values.items():
            yield from by_path(inner, f"{path}.{key}" if path else key)
    else:
        yield path, (values if isinstance(values, str) else json.dumps(values))[:MAX_CHARACTERS]


def note(spec: TrainSpec, work: Path) -> None:
    """Writes the run's settings into its work folder, beside the checkpoints."""
    (work / SETTINGS_NAME).write_text(json.dumps(dict(by_path(fingerprinted(spec, with_defaults=True))), indent=1))


def runs_with_other_settings(spec: TrainSpec, store: Store) -> Iterator[str]:
    """A line for each unfinished run of this name that the job will not continue: which settings differ."""
    requested = dict(by_path(fingerprinted(spec, with_defaults=True)))
    folder = store.building_directory(spec.name, "any").parent
    for noted in sorted(folder.glob(f"*/{WORK_NAME}/{SETTINGS_NAME}")):
        earlier = json.loads(noted.read_text())
        changed = [path for path in sorted({*earlier, *requested}) if earlier.get(path) != requested.get(path)]
        if not changed or (noted.parents[1] / MANIFEST_NAME).exists():
            continue
        from rayloom.train.loop.checkpoints import newest_first, step_of  # loads torch

        newest = next(newest_first(noted.parent / "checkpoints"), None)
        if newest is None:
            continue
        pairs = [(path, earlier.get(path, "absent"), requested.get(path, "absent")) for path in changed[:MAX_SHOWN]]
        differences = "; ".join(f"{path}: {before} there, {here} here" for path, before, here in pairs)
        more = f" and {len(changed) - MAX_SHOWN} more" if len(changed) > MAX_SHOWN else ""
        other = f"{spec.name}@{noted.parents[1].name}"
        yield (
            f"{other} is unfinished at step {step_of(newest)} with other settings ({differences}{more}); "
            "this job starts from the beginning beside it. Undo the change to continue the earlier run"
        )
