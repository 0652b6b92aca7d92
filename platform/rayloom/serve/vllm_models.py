"""The architectures that the installed vLLM serves, read off its source: importing it takes several seconds."""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path

_REGISTRY = Path("model_executor", "models", "registry.py")
_NOT_SERVED = ("_PREVIOUSLY_SUPPORTED_MODELS", "_OOT_SUPPORTED_MODELS")


@functools.cache
def served_architectures() -> frozenset[str]:
    """Class names as in `architectures` of config.json; empty where vLLM is not installed on this machine."""
    found = importlib.util.find_spec("vllm")
    places = found.submodule_search_locations if found else None
    if not places:
        return frozenset()
    return architectures_in((Path(places[0]) / _REGISTRY).read_text(encoding="utf-8"))


def architectures_in(source: str) -> frozenset[str]:
    """The keys of the registry's tables `_…_MODELS = {"Architecture": ("module", "class"), …}`."""
    keys: set[str] = set()
    for node in ast.parse(source).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        is_table = isinstance(target, ast.Name) and target.id.endswith("_MODELS") and target.id not in _NOT_SERVED
        if is_table and isinstance(value, ast.Dict):
            keys |= {key.value for key in value.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return frozenset(keys)
