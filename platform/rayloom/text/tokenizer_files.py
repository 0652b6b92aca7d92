"""The files of a model folder that belong to its tokenizer, chat templates included."""

from __future__ import annotations

import shutil
from pathlib import Path

TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "spiece.*",
    "chat_template*", "additional_chat_templates/*.jinja",
)  # fmt: skip
"""Glob patterns; the last is where templates beside the default one lie."""


def copy_files(source: Path, target: Path, patterns: tuple[str, ...] = TOKENIZER_FILES) -> None:
    """Copies what fits a pattern, to the same place below `target`."""
    for pattern in patterns:
        for file in filter(Path.is_file, source.glob(pattern)):
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
