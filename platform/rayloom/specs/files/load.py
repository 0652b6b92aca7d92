"""Loading of job files: a typed spec, or one error with all problems, each with file, line, path, value and rule."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rayloom.errors import InputError, SpecError, nearest
from rayloom.specs.base import JobFile, JobSpec, Spec
from rayloom.specs.files.document import Path as YamlPath
from rayloom.specs.files.document import Problem, YamlDocument, dotted, parse
from rayloom.specs.files.problems import problems_of
from rayloom.specs.files.schema_walk import key_of, models_of, variant_of
from rayloom.specs.text_file import TextFile

Kinds = Mapping[str, type[JobSpec]]


@dataclass(frozen=True)
class Job:
    """A loaded job file: its spec, and its folder, from which relative paths in it start."""

    spec: JobSpec
    file: Path
    included: tuple[Path, ...] = ()
    """Other files whose content is part of the spec: job files, and texts."""

    @property
    def directory(self) -> Path:
        return self.file.parent


def load(file: Path, kinds: Kinds, overrides: Sequence[str] = ()) -> Job:
    """Reads one job file. `overrides`: the `--set` arguments, `path.to.field=value`.

    Raises InputError if the file cannot be read, SpecError with all problems if it is not valid.
    """
    return loaded(_read(file), file, kinds, overrides)


def loaded(text: str, file: Path, kinds: Kinds, overrides: Sequence[str] = ()) -> Job:
    """The job that a file with this text would be. Raises as `load`."""
    document = parse(text, str(file))
    waiting = list(overrides)
    kind = document.values.get("kind")
    for key, mark, spec in _job_fields(kinds.get(kind) if isinstance(kind, str) else None):
        waiting = _set_only(document, (key, mark.overrides), waiting)
        _include(document, key, mark, file.parent)
        if document.values.get(key) is not None:
            spec.model_rebuild()  # A search validates this job alone as well: built first, it is not built twice.
    for override in waiting:
        document.set(override)
    included = [Path(other.source).resolve() for other in document.included.values()]
    included += _include_texts(document, kinds.get(kind) if isinstance(kind, str) else None, file.parent)
    return Job(validate(document, kinds), file.resolve(), tuple(included))


def _job_fields(spec: type[JobSpec] | None) -> list[tuple[str, JobFile, type[BaseModel]]]:
    """The fields that hold another job, with their JobFile marks and the spec of that job."""
    return [
        (key_of(name, info), mark, models_of(info.annotation)[0])
        for name, info in (spec.model_fields.items() if spec else ())
        for mark in info.metadata
        if isinstance(mark, JobFile)
    ]


def _set_only(document: YamlDocument, keys: Sequence[str], overrides: list[str]) -> list[str]:
    """Applies the overrides that replace a whole key of `keys`. Returns the other overrides."""
    chosen = [override for override in overrides if override.partition("=")[0].strip() in keys]
    for override in chosen:
        document.set(override)
    return [override for override in overrides if override not in chosen]


def _include(document: YamlDocument, key: str, mark: JobFile, directory: Path) -> None:
    """Replaces the path at `key` by the content of that job file, and applies the changes in the field beside it.

    Relative paths in that file still start from its own folder.
    """
    value, changes = document.values.get(key), document.values.get(mark.overrides)
    if value is None:
        return
    if isinstance(value, str):
        file = directory / Path(value).expanduser()
        other = parse(_read(file), str(file))
        if file.parent.resolve() != directory.resolve():
            other.values = _moved(other.values, os.path.relpath(file.parent, directory))
        document.include((key,), other)
    for change in changes if isinstance(changes, list) else ():
        if isinstance(change, str):
            document.set(f"{key}.{change}")


def _include_texts(document: YamlDocument, spec: type[JobSpec] | None, directory: Path) -> list[Path]:
    """Replaces the path in each field that is marked as TextFile by the file's text; the files beside the job."""
    beside = []
    for path, key, owner in _text_files(document.values, spec):
        text = owner[key]
        try:
            owner[key] = (directory / Path(text).expanduser()).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            document.problems.append(document.problem(path, f"{dotted(path)}: the file {text!r} is not UTF-8 text"))
            continue
        except (OSError, ValueError, RuntimeError) as error:  # also a NUL in the path, or a user without a home
            reason = f"cannot be read ({getattr(error, 'strerror', None) or error})"
            document.problems.append(document.problem(path, f"{dotted(path)}: the file {text!r} {reason}"))
            continue
        if not text.startswith(("/", "~")):
            beside.append(Path(os.path.normpath(directory.resolve() / text)))  # a link is sent under its own name
    return beside


def _text_files(value: Any, annotation: Any, path: YamlPath = ()) -> Iterator[tuple[YamlPath, str, dict[str, Any]]]:
    """The fields in `value` that name a text file: path, key, and the mapping that has it."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _text_files(item, annotation, (*path, number))
        return
    spec = variant_of(annotation, value)
    for name, info in spec.model_fields.items() if spec else ():
        key = key_of(name, info)
        found, here = value.get(key), (*path, key)
        if not any(isinstance(mark, TextFile) for mark in info.metadata):
            yield from _text_files(found, info.annotation, here)
        elif isinstance(found, str) and not {"{", "\n"} & set(found):
            yield here, key, value


def _moved(value: Any, folder: str) -> Any:
    """The values with each path relative to `folder` (`./…`, `../…`) made relative to this job file's folder."""
    if isinstance(value, dict):
        return {key: _moved(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, folder) for item in value]
    if isinstance(value, str) and value.startswith(("./", "../")):
        return f"./{Path(folder, value).as_posix()}"
    return value


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = difflib.get_close_matches(file.name, [p.name for p in file.parent.glob("*.y*ml")], n=1)
        advice = f"Did you mean {file.parent / near[0]}?" if near else "`rayloom init --help` lists starter files."
        raise InputError("There is no such job file", where=str(file), fix=advice) from None
    except IsADirectoryError:
        raise InputError("This is a folder, not a job file", where=str(file), fix="Name a .yaml file in it.") from None
    except PermissionError:
        raise InputError(
            "There is no permission to read the job file", where=str(file), fix="Check its permissions."
        ) from None
    except UnicodeDecodeError as error:
        where = f"{file}, byte {error.start}"
        raise InputError("The job file is not UTF-8 text", where=where, fix="Save it as UTF-8.") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"The job file cannot be read: {reason}", where=str(file), fix="Check the path.") from None


S = TypeVar("S", bound=Spec)


def load_values(file: Path, spec: type[S]) -> S:
    """The values in a file that is no job file. Raises InputError if it cannot be read, SpecError with its problems."""
    document = parse(_read(file), str(file))
    try:
        return spec.model_validate_json(json.dumps(document.values), strict=True)
    except ValidationError as error:
        problems = [*document.problems, *problems_of(error.errors(include_url=False), document, spec)]
        lines = tuple(str(problem) for problem in problems)
        raise SpecError("The file has problems", where=document.source, problems=lines) from None


def validate(document: YamlDocument, kinds: Kinds) -> JobSpec:
    """The typed spec of a document. Raises SpecError with all its problems."""
    spec: JobSpec | None = None
    problems = list(document.problems)
    kind = document.values.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        problems.append(_unknown_kind(kind, document, kinds))
        near = difflib.get_close_matches(str(kind), kinds, n=1)
        kind = document.values["kind"] = near[0] if near else None
    if kind is not None:
        try:
            # As JSON, because strict mode then accepts lists for tuples and still refuses "12" for 12.
            spec = kinds[kind].model_validate_json(json.dumps(document.values), strict=True)
        except ValidationError as error:
            problems += problems_of(error.errors(include_url=False), document, kinds[kind])
        else:
            problems += [
                document.problem(path, f"{dotted(path)}: {message}") for path, message in spec.further_problems()
            ]
    if problems or spec is None:
        lines = tuple(str(problem) for problem in sorted(problems, key=lambda problem: problem.line))
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise SpecError(f"The job file has {count}", where=document.source, problems=lines)
    return spec


def _unknown_kind(kind: object, document: YamlDocument, kinds: Kinds) -> Problem:
    message = "this key is missing" if kind is None else f"{kind!r} is not a kind of job"
    return document.problem(("kind",), f"kind: {message}; the kinds are {', '.join(kinds)}{nearest(kind, kinds)}")
