"""What stands under each field of a spec: its description, read from the source when a schema is asked for.

Pydantic would read the source of every class while it is imported (`use_attribute_docstrings`), which takes as long as
all else that `rayloom check` does.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys


def field_docs(model: type) -> dict[str, str]:
    """Field name to description, with those of base classes."""
    docs: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if cls.__module__.split(".")[0] not in ("builtins", "pydantic"):
            docs |= _by_class(cls.__module__).get(cls.__name__, {})
    return docs


@functools.cache
def _by_class(module: str) -> dict[str, dict[str, str]]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: _docs(node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def _docs(node: ast.ClassDef) -> dict[str, str]:
    docs = {}
    for field, below in zip(node.body, node.body[1:], strict=False):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            docs[field.target.id] = inspect.cleandoc(str(below.value.value))  # type: ignore[attr-defined]
    return docs
