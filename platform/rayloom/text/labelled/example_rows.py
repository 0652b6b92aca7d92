"""Solved rows on disk as they were read, for training on a prompt, which renders them each time anew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayloom.errors import InputError
from rayloom.text.labelled.dataset import EXAMPLES_NAME
from rayloom.text.labelled.encoded_rows import INDEX_NAME
from rayloom.text.labelled.examples import Example, read_examples, write_examples


@dataclass(frozen=True)
class SolvedRow:
    """A row, and whether it is one to measure by."""

    example: Example
    is_heldout: bool


def write_example_rows(examples: Sequence[Example], folder: Path, tokenizer_digest: str, num_tokens: int) -> None:
    """Writes the rows, the index last. `num_tokens`: of all their prompts, without demonstrations."""
    folder.mkdir(parents=True, exist_ok=True)
    write_examples(examples, folder / EXAMPLES_NAME)
    facts = {"format": 1, "tokenizer_digest": tokenizer_digest, "num_tokens": num_tokens}
    (folder / INDEX_NAME).write_text(json.dumps(facts, indent=2) + "\n")


class ExampleRows:
    """Reads such a folder. Raises InputError where it is none."""

    def __init__(self, directory: Path, *, is_heldout: bool = False) -> None:
        self.directory, self.is_heldout = directory, is_heldout
        try:
            index = json.loads((directory / INDEX_NAME).read_text())
        except FileNotFoundError:
            fix = "Run the training job again; it reads its rows first."
            raise InputError("There are no finished rows of a task here", where=str(directory), fix=fix) from None
        self.tokenizer_digest, self.num_tokens = str(index["tokenizer_digest"]), int(index["num_tokens"])
        self.examples = list(read_examples(directory / EXAMPLES_NAME))

    def __len__(self) -> int:
        return len(self.examples)

    def row(self, index: int) -> SolvedRow:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return SolvedRow(self.examples[index], self.is_heldout)
