"""A job file as plain values with the line of each key, from a restricted YAML.

Scalars follow YAML 1.2: `no` and `1:30` are text and `2e-4` is a number, unlike in PyYAML. Aliases, merge keys and tags
are refused, so that every value is written where it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from rayloom.errors import SpecError

Path = tuple[str | int, ...]

_DEEPEST = 100
"""Most mappings and lists inside each other."""
_TAG = "tag:yaml.org,2002:"
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+|0o[0-7]+")
_DECIMAL = re.compile(
    r"[-+]?((0|[1-9][0-9_]*)(\.[0-9_]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


class _Loader(yaml.CSafeLoader):
    """Resolves plain scalars as YAML 1.2's core schema does, with `_` allowed between digits."""

    yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's)


for _name, _pattern in (
    ("null", re.compile(r"~|null|Null|NULL|")),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE")),
    ("int", _WHOLE),
    ("float", _DECIMAL),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern.pattern})$"), None)


def _composed(text: str) -> yaml.Node | None:
    """The YAML as nodes. Raises RecursionError if it is nested so deeply that libyaml could overflow the stack."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise RecursionError
    return yaml.compose(text, Loader=_Loader)


@dataclass(frozen=True, order=True)
class Problem:
    """One problem in a job file."""

    line: int
    """0 for `--set`."""
    where: str
    """`file:line`, or the `--set` that brought it."""
    text: str
    """Dotted path, rule and value."""

    def __str__(self) -> str:
        return f"{self.where}  {self.text}"


@dataclass
class YamlDocument:
    """Plain values of a YAML file, the line of each path, and the problems of the YAML itself."""

    source: str
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)
    overrides: dict[Path, str] = field(default_factory=dict)
    """The `--set` argument behind each value that one changed, by path."""
    problems: list[Problem] = field(default_factory=list)
    included: dict[Path, YamlDocument] = field(default_factory=dict)
    """Documents whose values are part of this one, by path; their problems name their own files."""

    def include(self, path: Path, other: YamlDocument) -> None:
        """Sets the top-level key that `path` names to the values of another document."""
        self.values[str(path[0])] = other.values
        self.included[path] = other
        self.problems += other.problems

    def problem(self, path: Sequence[str | int], text: str) -> Problem:
        """A problem at the line of the path, or of its nearest parent that is in the file."""
        for end in range(len(path), -1, -1):
            above = tuple(path[:end])
            if above in self.overrides:
                return Problem(0, f"--set {self.overrides[above]}", text)
            if above in self.included:
                return self.included[above].problem(path[end:], text)
            if above in self.lines:
                return Problem(self.lines[above], f"{self.source}:{self.lines[above]}", text)
        return Problem(1, self.source, text)

    def set(self, override: str) -> None:
        """Applies one `path.to.field=value`; the value is parsed as YAML."""
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            self._refuse(override, "must be path.to.field=value")
            return
        try:
            reader = _Reader(YamlDocument(""))
            value = reader.read(_composed(text), ())
        except (yaml.YAMLError, UnicodeEncodeError, RecursionError):
            self._refuse(override, "the value is not YAML; put it in quotes")
            return
        if reader.document.problems:
            self._refuse(override, reader.document.problems[0].text)
            return
        path, obstacle = _assign(self.values, keys, value)
        if obstacle:
            self._refuse(override, obstacle)
            return
        self.lines = {key: line for key, line in self.lines.items() if key[: len(path)] != path}
        self.overrides = {key: text for key, text in self.overrides.items() if key[: len(path)] != path}
        self.overrides[path] = override

    def _refuse(self, override: str, reason: str) -> None:
        self.problems.append(Problem(0, f"--set {override}", reason))


def _assign(values: Any, keys: Sequence[str], value: Any) -> tuple[Path, str]:
    """Sets `value` at the path, creating mappings if needed. Returns the path with its indices, and any problem."""
    path: list[str | int] = []
    for depth, key in enumerate(keys):
        part: str | int = key
        last = depth == len(keys) - 1
        if isinstance(values, list):
            if not key.isdecimal() or int(key) >= len(values):
                return (), f"{dotted(path)} is a list of {len(values)}, without an entry {key} (the first is 0)"
            part = int(key)
        elif isinstance(values, dict):
            if not last and values.get(key) is None:
                values[key] = {}
        else:
            return (), f"{dotted(path)} is the value {values!r}, which has no field {key}"
        path.append(part)
        if last:
            values[part] = value
        else:
            values = values[part]
    return tuple(path), ""


def parse(text: str, source: str) -> YamlDocument:
    """Reads YAML keeping line numbers. Raises SpecError if it is not YAML or not a mapping."""
    document = YamlDocument(source)
    try:
        node = _composed(text)
        if not isinstance(node, yaml.MappingNode):
            fix = "Begin with `kind: …`."
            raise SpecError("A job file must be a mapping of keys to values", where=source, fix=fix)
        document.values = _Reader(document).read(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # The end of the text counts as a line of its own.
        where = f"{source}:{min(mark.line, text.rstrip().count(chr(10))) + 1}" if mark else source
        reason = ", ".join(part for part in (error.context, error.problem) if part) or "it cannot be parsed"
        fix = "Check the quotes, and the indentation, which is made of spaces."
        raise SpecError(f"This is not YAML: {reason}", where=where, fix=fix) from None
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        reason = getattr(error, "reason", "it cannot be parsed")
        raise SpecError(f"This is not YAML: {reason}", where=source, fix="Save it as plain text.") from None
    except RecursionError:
        raise SpecError("This YAML is nested too deeply to be a job file", where=source) from None
    return document


@dataclass
class _Reader:
    """Converts YAML nodes to plain values, and records lines and problems in the document."""

    document: YamlDocument
    seen: set[int] = field(default_factory=set)

    def read(self, node: yaml.Node | None, path: Path) -> Any:
        if node is None:
            return None
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in self.seen:
            return self._refused(path, "aliases (*name) are not read; write the value out")
        self.seen.add(id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> Mapping[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._note(line, path, "a key must be plain text, not a list or mapping")
                continue
            key = str(key_node.value)
            here = (*path, key)
            if key == "<<":
                self._note(line, path, "merge keys (<<) are not read; write the values out")
            elif key in values:
                first = self.document.lines[here]
                self._note(line, here, f"this key is given twice, first on line {first}")
            else:
                self.document.lines[here] = line
                values[key] = self.read(value_node, here)
        return values

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        text, kind = str(node.value), node.tag.removeprefix(_TAG)
        try:
            if kind == "str":
                return text
            if kind == "null":
                return None
            if kind == "bool":
                return text.lower() == "true"
            if kind == "int":
                return int(text.replace("_", ""), 0 if text[:2] in ("0x", "0o") else 10)
            if kind == "float":
                return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            return self._refused(path, f"{text[:40]!r} is not a number that can be read")
        return self._refused(path, f"tags such as {node.tag.replace(_TAG, '!!')} are not read")

    def _refused(self, path: Path, reason: str) -> None:
        self._note(self.document.lines[path], path, reason)

    def _note(self, line: int, path: Path, reason: str) -> None:
        where = f"{self.document.source}:{line}"
        text = f"{dotted(path)}: {reason}" if path else reason
        self.document.problems.append(Problem(line, where, text))


def dotted(path: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in path)
