"""The texts that a training job of a task set aside."""

from __future__ import annotations

from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.text.labelled.dataset import EXAMPLES_NAME
from rayloom.text.labelled.examples import Example, read_examples


def heldout_examples(rows_of: Artifact) -> list[Example]:
    """Raises InputError where there are none."""
    file = rows_of.path / "heldout" / EXAMPLES_NAME
    if not file.exists():
        fix = "Name the model or adapter that a `train` job with a task made."
        raise InputError(f"{rows_of.id} keeps no held-out texts of a task", where=str(rows_of.path), fix=fix)
    return list(read_examples(file))
