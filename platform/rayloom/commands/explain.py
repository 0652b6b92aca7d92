"""`rayloom explain KIND.path.to.key`: explains a key of a job file, as `kubectl explain` does for Kubernetes.

It reads the schemas in `jobs/reference/`: making one from the specs takes ten times as long.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import rayloom
from rayloom.commands.shipped import schema_of, templates, uses
from rayloom.errors import SpecError, nearest
from rayloom.kinds import KINDS, SPECS
from rayloom.specs.files.reference import Key, Model, Reference, default, first_sentence, flow, sample, type_words, unit

_PACKAGE = Path(rayloom.__file__).parent
_MOST_FILES = 3
"""Most files that are named; the others are only counted."""
_COMMON_NAME_FILES = 6
"""If more files read an attribute of this name, none is shown: most of them would mean another key."""


def explain(options: argparse.Namespace) -> None:
    """Prints what a key means, or the kinds of job if no key is named."""
    if options.path is None:
        lines: Iterable[str] = _kinds()
    else:
        kind, *path = options.path.strip(".").split(".")
        reference = Reference(known(kind), schema_of(kind))
        lines = _keys(path, reference) if path else _kind(reference)
    sys.stdout.write("\n".join(lines) + "\n")


def known(kind: str) -> str:
    """The kind, if there is such a kind of job. Raises SpecError naming the nearest."""
    if kind not in SPECS:
        fix = f"The kinds are {', '.join(SPECS)}{nearest(kind, SPECS) or '.'}"
        raise SpecError(f"{kind!r} is not a kind of job", fix=fix)
    return kind


def wishes() -> list[tuple[str, str, str]]:
    """For each starter: what the user wants to do, the kind of job for it, and the starter's name."""
    rows = []
    for name, text in templates().items():
        wish = re.search(r"^# Use it if (.*)$", text, re.MULTILINE)
        kind = re.search(r"^kind: (\w+)", text, re.MULTILINE)
        rows += [(wish[1].rstrip("."), kind[1], name)] if wish and kind else []
    return sorted(rows, key=lambda row: list(SPECS).index(row[1]))


def _kinds() -> Iterator[str]:
    yield "Kinds of job:\n"
    yield from _table([(kind, first_sentence(schema_of(kind)["description"])) for kind in SPECS])
    yield "\nWhich kind do I need?\n"
    yield from _table([(f"{kind} (rayloom init {name})", f"If {wish}.") for wish, kind, name in wishes()])
    yield "\n`rayloom explain KIND` lists a kind's keys, `rayloom explain KIND.KEY` says more about one."


def _kind(reference: Reference) -> Iterator[str]:
    yield f"{reference.kind}\n"
    yield from _wrapped(reference.root.get("description", ""))
    yield ""
    yield from _key_table(reference.models(reference.root)[0], reference)
    yield f"\ncode: {_stage(reference.kind)}"


def _keys(path: list[str], reference: Reference) -> Iterator[str]:
    for number, key in enumerate(reference.find(path)):
        yield from ["", ""] if number else []
        yield from _key(key, path, reference)


def _key(key: Key, path: list[str], reference: Reference) -> Iterator[str]:
    dotted = ".".join((reference.kind, *path))
    is_variant = key.variants == (path[-1],)
    where = f"   where type is {' or '.join(key.variants)}" if key.variants and not is_variant else ""
    yield f"{dotted}{where}\n"
    models = reference.models(key.schema)
    yield from _wrapped(key.description or (models[0].schema.get("description", "") if len(models) == 1 else ""))
    yield ""
    facts = [] if is_variant else [("type", type_words(key.schema, reference)), ("default", default(key))]
    facts += [("unit", unit(key))] if unit(key) else []
    yield from _table([*facts, *_usage(key, path, reference)])
    if len(models) == 1:
        yield "\nKeys:\n"
        yield from _key_table(models[0], reference)
    elif models:
        yield f"\nVariants (`rayloom explain {dotted}.TYPE` lists the keys of one):\n"
        yield from _table([(model.tag, first_sentence(model.schema.get("description", ""))) for model in models])


def _usage(key: Key, path: list[str], reference: Reference) -> Iterator[tuple[str, str]]:
    """An example from a shipped job file, else from the schema, and the job files and code that use the key."""
    shown = list(islice(uses(reference.kind, path, key.variants), _MOST_FILES + 1))
    value = shown[0].value if shown else sample(key, reference)
    if value is not None:
        yield "example", f"{key.name}: {flow(value)}" + (f"   ({shown[0].file})" if shown else "")
    if len(shown) > 1:
        more = " and others" if len(shown) > _MOST_FILES else ""
        yield "also in", ", ".join(use.file for use in shown[1:_MOST_FILES]) + more
    files = _files_with(key.name, reference.kind)
    readers = f"; `.{key.name}` is read in {', '.join(files[:_MOST_FILES])}" if files else ""
    more = f" and {len(files) - _MOST_FILES} more" if len(files) > _MOST_FILES else ""
    yield "code", f"{_stage(reference.kind)}{readers}{more}"


def _stage(kind: str) -> str:
    """The source file that runs jobs of a kind."""
    module = KINDS[kind].stage.partition(":")[0] if kind in KINDS else "rayloom.pipeline.run"
    return f"{module.replace('.', '/')}.py"


def _files_with(name: str, kind: str) -> list[str]:
    """Source files that read an attribute of this name, those in the folder of the kind's stage first."""
    room = _stage(kind).split("/")[1]
    attribute = re.compile(rf"\.{re.escape(name)}\b(?!\()")
    rooms = [folder for folder in _PACKAGE.iterdir() if folder.is_dir() and folder.name not in ("specs", "commands")]
    files = [file for folder in rooms for file in folder.rglob("*.py") if attribute.search(file.read_text("utf-8"))]
    names = [file.relative_to(_PACKAGE.parent).as_posix() for file in files]
    return sorted(names, key=lambda n: (n.split("/")[1] != room, n)) if len(names) <= _COMMON_NAME_FILES else []


def _key_table(model: Model, reference: Reference) -> Iterator[str]:
    rows = []
    for key in model.fields():
        only = reference.models(key.schema)
        text = key.description or (only[0].schema.get("description", "") if len(only) == 1 else "")
        must = " (must be given)" if key.is_required else ""
        rows.append((key.name, f"{first_sentence(text)}{must}".strip()))
    return _table(rows)


def _table(rows: list[tuple[str, str]]) -> Iterator[str]:
    width = max((len(name) for name, _ in rows), default=0) + 2
    for name, text in rows:
        yield from _wrapped(text, first=f"  {name:<{width}}", rest=" " * (width + 2)) if text else [f"  {name}"]


def _wrapped(text: str, first: str = "  ", rest: str = "  ") -> list[str]:
    width = max(60, min(110, shutil.get_terminal_size((100, 24)).columns))
    plain = " ".join(text.split())
    return textwrap.wrap(plain, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
