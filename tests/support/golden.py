"""What each kind of job gives for a tiny job, and the defaults of its spec, as they were when its version was set.

`python -m support.golden KIND …` (in `tests/`) writes them down anew. It refuses where a result or a default is another
one and the kind's `version` in `kinds.py` is not: results of the old code would then be reused for the new.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from rayloom.kinds import KINDS, SPECS
from rayloom.specs.base import Spec, default_of, fingerprinted, is_variant_name

FOLDER = Path(__file__).parents[1] / "golden"
TOLERANCE = 2e-3
"""Between numbers that another processor rounds otherwise; texts and whole numbers must be equal."""


def recorded(kind: str) -> dict[str, Any]:
    """`version`, `defaults` and `result` of a kind, as they were written down."""
    found: dict[str, Any] = json.loads((FOLDER / f"{kind}.json").read_text(encoding="utf-8"))
    return found


def complaint(kind: str, version: int, what: str, before: object, now: object) -> str:
    """What to do about a result or a default that is another one."""
    return (
        f"kind {kind}, version {version}: {what} was {before} and is {now}. Raise its version in kinds.py, so that old "
        f"results are not reused, and write the new ones down: cd tests && python -m support.golden {kind}"
    )


def changes(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Path, old and new value of each leaf that is gone or another one; leaves that are new are no change."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key, value in before.items():
            yield from changes(value, now.get(key, "(gone)"), f"{path}.{key}" if path else key)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from changes(one, other, f"{path}.{number}")
    elif isinstance(before, float) and isinstance(now, float | int):
        if not math.isclose(before, now, rel_tol=TOLERANCE, abs_tol=1e-6):
            yield path, before, now
    elif before != now:
        yield path, before, now


def changed_defaults(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Path, old and new value of each default that is gone or another one."""
    pairs = [(path, value, now.get(path, "(gone)")) for path, value in before.items()]
    return [(path, old, new) for path, old, new in pairs if old != new]


def defaults_of(spec: type[Spec]) -> dict[str, Any]:
    """Every default that can change a result, by the path of its field; variants of a union by their type."""
    return dict(sorted(_defaults(spec, "")))


def _defaults(spec: type[Spec], path: str) -> Iterator[tuple[str, Any]]:
    for name, field in spec.model_fields.items():
        if "unfingerprinted" in field.metadata or is_variant_name(field):
            continue
        here = f"{path}{field.alias or name}"
        if not field.is_required():
            yield here, _shown(default_of(field))
        for inner in classes_in(field.annotation):
            if issubclass(inner, Spec):
                yield from _defaults(inner, f"{here}{_variant(inner)}.")


def _variant(spec: type[Spec]) -> str:
    named = spec.model_fields.get("type") or spec.model_fields.get("kind")
    return f"[{get_args(named.annotation)[0]}]" if named is not None and get_args(named.annotation) else ""


def _shown(value: Any) -> Any:
    if isinstance(value, Spec):
        return fingerprinted(value)
    if isinstance(value, tuple | list):
        return [_shown(item) for item in value]
    return {key: _shown(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def classes_in(annotation: Any) -> Iterator[type]:
    """The classes that a field may hold, also inside `X | None`, `tuple[X, ...]` and `Annotated`."""
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    for inner in get_args(annotation):
        yield from classes_in(inner)


def specs_below(spec: type[Spec]) -> Iterator[type[Spec]]:
    """The spec and every spec that it holds, at any depth."""
    yield spec
    for field in spec.model_fields.values():
        for inner in classes_in(field.annotation):
            if issubclass(inner, Spec):
                yield from specs_below(inner)


def record(kind: str) -> None:
    """Writes down what the kind gives now. Raises SystemExit where its version must be raised first."""
    from support.golden_jobs import JOBS

    version, file = KINDS[kind].version, FOLDER / f"{kind}.json"
    now: dict[str, Any] = {"version": version, "defaults": json.loads(json.dumps(defaults_of(SPECS[kind])))}
    with tempfile.TemporaryDirectory() as folder:
        now["result"] = json.loads(json.dumps(JOBS[kind](Path(folder)))) if kind in JOBS else None
    before = recorded(kind) if file.exists() else {"version": None}
    if before["version"] == version:
        for path, old, new in (
            *changed_defaults(before["defaults"], now["defaults"]),
            *changes(before["result"], now["result"], "result"),
        ):
            raise SystemExit(complaint(kind, version, path, old, new))
    file.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:] or KINDS:
        record(name)
