"""Job files: YAML in, a typed spec out, or every problem at once with file, line, path, value and rule."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rayloom.errors import InputError, SpecError
from rayloom.specs.base import JobSpec

Kinds = Mapping[str, type[JobSpec]]


@dataclass(frozen=True)
class Job:
    """A job file that was read: its spec and where it stood (relative paths in it start there)."""

    spec: JobSpec
    file: Path

    @property
    def directory(self) -> Path:
        return self.file.parent


def load(file: Path, kinds: Kinds, overrides: Sequence[str] = ()) -> Job:
    """Reads one job file. `overrides` are `--set` arguments, `path.to.field=value`.

    Raises InputError where there is no readable file, SpecError with every problem otherwise.
    """
    document = parse(_read(file), str(file))
    for override in overrides:
        document.set(override)
    return Job(validate(document, kinds), file.resolve())


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(file.name, [p.name for p in file.parent.glob("*.y*ml")], n=1)
        advice = f"Did you mean {file.parent / near[0]}?" if near else "`rayloom init --help` lists starter files."
        raise InputError("There is no such job file", where=str(file), fix=advice) from None
    except IsADirectoryError:
        raise InputError("This is a folder, not a job file", where=str(file), fix="Name a .yaml file in it.") from None
    except PermissionError:
        raise InputError("The job file may not be read", where=str(file), fix="Check its permissions.") from None
    except UnicodeDecodeError as error:
        where = f"{file}, byte {error.start}"
        raise InputError("The job file is not UTF-8 text", where=where, fix="Save it as UTF-8.") from None


@dataclass
class Document:
    """Plain values of a YAML file, and the line that each dotted path stands on."""

    source: str
    values: dict[str, Any]
    lines: dict[tuple[str | int, ...], int]
    problems: list[str]

    def where(self, path: Sequence[str | int]) -> str:
        """`file:line` of the path, or of the nearest key above it that stands in the file."""
        for end in range(len(path), -1, -1):
            line = self.lines.get(tuple(path[:end]))
            if line is not None:
                return f"{self.source}:{line}" if line else f"{self.source}: --set"
        return self.source

    def set(self, override: str) -> None:
        """Applies one `path.to.field=value`; the value is read as YAML."""
        dotted, equals, text = override.partition("=")
        if not equals or not dotted:
            self.problems.append(f"--set {override}: must be path.to.field=value")
            return
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            self.problems.append(f"--set {override}: the value is not YAML")
            return
        path = tuple(int(part) if part.isdigit() else part for part in dotted.split("."))
        problem = _assign(self.values, path, value)
        if problem:
            self.problems.append(f"--set {override}: {problem}")
        self.lines = {key: line for key, line in self.lines.items() if key[: len(path)] != path}
        self.lines[path] = 0


def _assign(values: Any, path: tuple[str | int, ...], value: Any) -> str:
    """Puts `value` at `path`, making the mappings on the way; returns what stood in the way, or nothing."""
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(values, list):
            if not isinstance(part, int) or part >= len(values):
                return f"{_dotted(path[:depth])} is a list of {len(values)}; {part} is not one of its indices"
        elif isinstance(values, dict):
            part = str(part)
            if not last and values.get(part) is None:
                values[part] = {}
        else:
            return f"{_dotted(path[:depth])} is the value {values!r}, which has no field {part}"
        if last:
            values[part] = value
        else:
            values = values[part]
    return ""


def parse(text: str, source: str) -> Document:
    """Reads YAML keeping line numbers. Raises SpecError where it is not YAML or not a mapping."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        reason = getattr(error, "problem", None) or "it cannot be parsed"
        raise SpecError(f"This is not YAML: {reason}", where=where, fix="Check the indentation and quotes.") from None
    if not isinstance(node, yaml.MappingNode):
        raise SpecError("A job file must be a mapping of keys to values", where=source, fix="Begin with `kind: …`.")
    document = Document(source, {}, {}, [])
    document.values = _construct(node, (), document)
    return document


def _construct(node: yaml.Node, path: tuple[str | int, ...], document: Document) -> Any:
    document.lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            here = (*path, key)
            if key in values:
                line = key_node.start_mark.line + 1
                document.problems.append(f"{document.source}:{line}  {_dotted(here)}: this key stands twice")
            values[key] = _construct(value_node, here, document)
            document.lines[here] = key_node.start_mark.line + 1
        return values
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*path, index), document) for index, item in enumerate(node.value)]
    loader = yaml.SafeLoader("")
    return loader.construct_object(node)


def validate(document: Document, kinds: Kinds) -> JobSpec:
    """The typed spec of a document. Raises SpecError with every problem that it has."""
    spec: JobSpec | None = None
    problems = list(document.problems)
    kind = document.values.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        said = "this key is missing" if kind is None else f"{kind!r} is not a kind of job"
        near = _nearest(str(kind), kinds)
        problems.append(f"{document.where(('kind',))}  kind: {said}; the kinds are {', '.join(kinds)}{near}")
    else:
        try:
            spec = kinds[kind].model_validate(document.values)
        except ValidationError as error:
            problems += [_describe(detail, document, kinds[kind]) for detail in error.errors(include_url=False)]
    if problems or spec is None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise SpecError(f"The job file has {count}", where=document.source, problems=tuple(problems))
    return spec


def _describe(detail: ErrorDetails, document: Document, root: type[BaseModel]) -> str:
    """One problem as one line: `file:line  dotted.path: rule (value)`."""
    path, owner = _spec_path(detail["loc"], document.values, root)
    rule, value = detail["msg"].removeprefix("Value error, "), detail["input"]
    if detail["type"] == "extra_forbidden":
        keys = [field.alias or name for name, field in owner.model_fields.items()] if owner else []
        rule = f"unknown key{_nearest(str(path[-1]), keys)}"
        if keys and "did you mean" not in rule:
            rule += f"; the keys here are {', '.join(keys)}"
        said = ""
    elif detail["type"] == "missing":
        rule, said = "this key is missing", ""
    elif isinstance(value, (dict, list)):
        said = ""
    else:
        said = f" (it is {value!r})"
    return f"{document.where(path)}  {_dotted(path) or '(the file)'}: {rule}{said}"


def _spec_path(
    location: tuple[str | int, ...], values: Any, root: type[BaseModel]
) -> tuple[tuple[str | int, ...], type[BaseModel] | None]:
    """The path as it stands in the file, and the spec class that owns its last key.

    Pydantic puts the tag of a discriminated union into the location; nobody wrote that level, so it is left out.
    """
    path: list[str | int] = []
    owner: type[BaseModel] | None = root
    candidates: list[type[BaseModel]] = [root]
    for depth, part in enumerate(location):
        is_last = depth == len(location) - 1
        if isinstance(part, str) and isinstance(values, dict) and part not in values and not is_last:
            candidates = [c for c in candidates if _has_tag(c, part)] or candidates
            continue
        owner = candidates[0] if candidates else None
        path.append(part)
        if isinstance(part, str):
            candidates = _classes_of(candidates, part)
            values = values.get(part) if isinstance(values, dict) else None
        else:
            values = values[part] if isinstance(values, list) and part < len(values) else None
    return tuple(path), owner


def _has_tag(spec: type[BaseModel], tag: str) -> bool:
    return any(tag in get_args(field.annotation) for field in spec.model_fields.values())


def _classes_of(owners: list[type[BaseModel]], key: str) -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = []
    for owner in owners:
        for name, field in owner.model_fields.items():
            if key in (name, field.alias):
                found += _classes_in(field.annotation)
    return found


def _classes_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _classes_in(inner)]


def _nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _dotted(path: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in path)
