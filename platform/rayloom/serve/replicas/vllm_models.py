"""The architectures and tool parsers that the installed vLLM has, read off its source: importing it takes seconds."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

_REGISTRY = Path("model_executor", "models", "registry.py")
_PARSERS = Path("tool_parsers", "__init__.py")
_NOT_SERVED = ("_PREVIOUSLY_SUPPORTED_MODELS", "_OOT_SUPPORTED_MODELS")


@functools.cache
def served_architectures() -> frozenset[str]:
    """Class names as in `architectures` of config.json; empty where vLLM is not installed on this machine."""
    source = _source(_REGISTRY)
    return architectures_in(source) if source is not None else frozenset()


@functools.cache
def tool_parsers() -> frozenset[str]:
    """Names for `engine.tool_parser`; empty where vLLM is not installed on this machine."""
    source = _source(_PARSERS)
    return _keys(source, lambda name: name.endswith("_TO_REGISTER")) if source is not None else frozenset()


def _source(file: Path) -> str | None:
    found = importlib.util.find_spec("vllm")
    places = found.submodule_search_locations if found else None
    return (Path(places[0]) / file).read_text(encoding="utf-8") if places else None


def architectures_in(source: str) -> frozenset[str]:
    """The keys of the registry's tables `_…_MODELS = {"Architecture": ("module", "class"), …}`."""
    return _keys(source, lambda name: name.endswith("_MODELS") and name not in _NOT_SERVED)


def _keys(source: str, is_table: Callable[[str], bool]) -> frozenset[str]:
    """The string keys of the dictionaries that are assigned to names such as wanted."""
    keys: set[str] = set()
    for node in ast.parse(source).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and is_table(target.id) and isinstance(value, ast.Dict):
            keys |= {key.value for key in value.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return frozenset(keys)
