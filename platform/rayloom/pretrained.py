"""transformers' classes by their names, imported without what nothing here asks of them.

Beside each configuration and model transformers imports scikit-learn and SciPy where they are installed, for a measure
of assisted generation and for object detection: 950 modules and 1.2 CPU seconds in every process that reads a model.
And it writes the docstrings of its classes while it imports them, for which a configuration imports all that generates
text.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import transformers.utils


def _undocumented(obj: Any = None, **_: Any) -> Any:
    """In place of `transformers.utils.auto_docstring`, a decorator with or without arguments."""
    return _undocumented if obj is None else obj


transformers.utils.is_sklearn_available = transformers.utils.is_scipy_available = lambda: False
transformers.utils.auto_docstring = _undocumented


def masked_model_types() -> Collection[str]:
    """The types of configurations for which there is a model that predicts masked tokens, such as bert."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    found: Collection[str] = MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return found


def __getattr__(name: str) -> Any:
    """transformers' class of this name, whose module is imported now."""
    return getattr(transformers, name)
