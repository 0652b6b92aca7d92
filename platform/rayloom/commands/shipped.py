"""The shipped job files: the quickstart, the recipes, starters for each kind of job, and the keys of each kind.

They are in `jobs/` of a checkout, and in `rayloom/jobs/` of an installed wheel, which is built with a copy. No spec is
imported here, so that `rayloom explain` answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import rayloom
from rayloom.errors import InputError
from rayloom.specs.files.document import parse

PACKAGE = Path(rayloom.__file__).parent
TEMPLATES = PACKAGE / "templates"


@dataclass(frozen=True)
class Use:
    """A job file that sets a key, and the value."""

    file: str
    value: Any


def jobs_folder() -> Path:
    """The folder that holds `quickstart/` and `recipes/`. Raises InputError if it was not installed."""
    for folder in (PACKAGE / "jobs", PACKAGE.parents[1] / "jobs"):
        if (folder / "quickstart").is_dir():
            return folder
    fix = "Install Rayloom from its wheel, or work in a checkout."
    raise InputError("The job files that come with Rayloom are not there", where=str(PACKAGE / "jobs"), fix=fix)


def job_files() -> dict[str, Path]:
    """Every shipped job file by its name (`quickstart/clean.yaml`), the quickstart's first."""
    folder = jobs_folder()
    files = sorted(folder.rglob("*.yaml"), key=lambda file: file.relative_to(folder).parts)
    return {file.relative_to(folder).as_posix(): file for file in files}


def templates() -> dict[str, str]:
    """Name and content of the starter file of each kind of job."""
    return {file.stem: file.read_text(encoding="utf-8") for file in sorted(TEMPLATES.glob("*.yaml"))}


def starters_of(kind: str) -> dict[str, str]:
    """Name and content of the starters of one kind of job."""
    return {name: text for name, text in templates().items() if f"\nkind: {kind}\n" in text}


def schema_of(kind: str) -> Mapping[str, Any]:
    """The JSON schema of a kind, as `make reference` wrote it from the specs."""
    return json.loads((jobs_folder() / "reference" / f"{kind}.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def uses(kind: str, path: Sequence[str], variants: Sequence[str] = ()) -> Iterator[Use]:
    """The shipped job files that set a key: the quickstart's, then recipes, then starters."""
    keys = [part for part in path if not part.isdecimal()]
    starters = {f"templates/{file.name}": file for file in sorted(TEMPLATES.glob("*.yaml"))}
    for name, file in (job_files() | starters).items():
        text = file.read_text(encoding="utf-8")
        if f"kind: {kind}\n" in text and all(key in text for key in keys):
            values = _values(parse(text, name).values, keys, variants)
            yield from (Use(name, value) for value in islice(values, 1))


def _values(value: Any, path: Sequence[str], variants: Sequence[str], is_chosen: bool = False) -> Iterator[Any]:
    """The values at a path, in all entries of lists on the way. `is_chosen`: the path named this mapping's `type`."""
    if not path:
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _values(entry, path, variants)
    elif isinstance(value, dict) and value.get("type") == path[0] and not is_chosen:
        yield from _values(value, path[1:], variants, is_chosen=True)
    elif isinstance(value, dict) and path[0] in value and (len(path) > 1 or _is_one_of(value, variants)):
        yield from _values(value[path[0]], path[1:], variants)


def _is_one_of(value: dict[str, Any], variants: Sequence[str]) -> bool:
    return not variants or value.get("type", variants[0]) in variants
