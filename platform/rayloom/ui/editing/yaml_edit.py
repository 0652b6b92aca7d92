"""One value changed in a YAML text, with comments, order and the rest of the text as they are.

A change is made at the place of the value; the new text is then read and compared with what it should say. Where it
says anything else, such as with anchors, the values are written anew without comments.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import yaml

from rayloom.specs.files.reference import flow

INDENT = "  "


class MissingValue:
    """Stands for no value: the key is removed."""


MISSING = MissingValue()
Path = Sequence[str | int]


def changed(text: str, path: Path, value: Any) -> str:
    """The text with `value` at `path`. Raises yaml.YAMLError if it is no YAML, KeyError if the path leads nowhere."""
    before = yaml.safe_load(text) or {}
    wanted = _with(before, path, value)
    if wanted == before:
        return text
    try:
        after = _edited(text, path, value)
        if yaml.safe_load(after) == wanted:
            return after
    except (yaml.YAMLError, KeyError, IndexError, TypeError):
        pass
    return yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True, width=100)


def _with(values: Any, path: Path, value: Any) -> Any:
    """The values with a change; mappings on the way are made."""
    made = copy.deepcopy(values)
    inner = made
    for number, key in enumerate(path[:-1]):
        if isinstance(inner, dict):
            if not isinstance(inner.get(key), dict | list):
                inner[key] = [] if isinstance(path[number + 1], int) else {}
            inner = inner[key]
        elif isinstance(inner, list) and isinstance(key, int) and key < len(inner):
            inner = inner[key]
        else:
            raise KeyError(key)
    last = path[-1]
    if isinstance(value, MissingValue):
        if isinstance(inner, dict):
            inner.pop(last, None)
        elif isinstance(last, int) and last < len(inner):
            del inner[last]
    elif isinstance(inner, list) and isinstance(last, int) and last >= len(inner):
        inner.append(value)
    elif isinstance(inner, list) and not isinstance(last, int):
        raise KeyError(last)
    else:
        inner[last] = value
    return made


def _edited(text: str, path: Path, value: Any) -> str:
    """The text with a change at its place. Raises where it knows no place."""
    node = yaml.compose(text)
    if node is None:
        return f"{text.rstrip()}\n{path[0]}: {flow(_nested(path[1:], value))}\n".lstrip()
    for number, key in enumerate(path[:-1]):
        inner = _child(node, key)
        if inner is None or isinstance(inner, yaml.ScalarNode):
            return _edited(text, path[: number + 1], _nested(path[number + 1 :], value))
        node = inner
    if isinstance(value, MissingValue):
        return _removed(text, node, path[-1])
    old = _child(node, path[-1])
    if old is None:
        return _added(text, node, path[-1], value)
    return text[: old.start_mark.index] + flow(value) + _rest(text, old)


def _nested(path: Path, value: Any) -> Any:
    for key in reversed(path):
        value = [value] if isinstance(key, int) else {key: value}
    return value


def _child(node: yaml.Node, key: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int):
        return node.value[key] if key < len(node.value) else None
    if isinstance(node, yaml.MappingNode):
        return next((value for name, value in node.value if name.value == str(key)), None)
    raise KeyError(key)


def _rest(text: str, node: yaml.Node) -> str:
    """What stands behind a value: block mappings and lists end at the next key, behind the line feeds and comments."""
    end = node.end_mark.index
    while end > node.start_mark.index and text[end - 1] in " \n":
        end -= 1
    return text[end:]


def _added(text: str, node: yaml.Node, key: str | int, value: Any) -> str:
    if not isinstance(node, yaml.MappingNode):
        raise KeyError(key)
    if node.flow_style:
        end = node.end_mark.index - 1
        comma = ", " if node.value else ""
        return f"{text[:end].rstrip()}{comma}{key}: {flow(value)}{text[end:]}"
    end = len(text) - len(_rest(text, node.value[-1][1]))
    end = end + len(text[end:].partition("\n")[0])  # behind a comment on that line
    return f"{text[:end]}\n{' ' * node.start_mark.column}{key}: {flow(value)}{text[end:] or chr(10)}"


def _removed(text: str, node: yaml.Node, key: str | int) -> str:
    if not isinstance(node, yaml.MappingNode) or node.flow_style or len(node.value) < 2:
        raise KeyError(key)
    name, value = next(pair for pair in node.value if pair[0].value == str(key))
    end = len(text) - len(_rest(text, value))
    end += len(text[end:].partition("\n")[0]) + 1
    begin = name.start_mark.index - name.start_mark.column
    if text[begin : name.start_mark.index].strip():
        raise KeyError(key)  # the first key of a list's entry, behind its dash
    return text[:begin] + text[end:]
