"""The files of a model folder that belong to its tokenizer, chat templates included."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from rayloom.errors import InputError

TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "spiece.*",
    "chat_template*", "additional_chat_templates/*.jinja",
)  # fmt: skip
"""Glob patterns; the last is where templates beside the default one lie."""


def copy_files(source: Path, target: Path, patterns: tuple[str, ...] = TOKENIZER_FILES) -> None:
    """Copies what fits a pattern, to the same place below `target`."""
    for pattern in patterns:
        for file in filter(Path.is_file, source.glob(pattern)):
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


# A digest by which two tokenizers are known to give the same ids.


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of vocabulary, merges and rules, whichever folder the tokenizer was loaded from."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    # Padding and truncation are settings of the last call, not of the tokenizer.
    rules.pop("padding", None)
    rules.pop("truncation", None)
    return hashlib.sha256(json.dumps(rules, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


# A byte-level BPE tokenizer learnt from text (Sennrich et al. 2016; Radford et al. 2019), as a Hugging Face folder.

END_OF_TEXT = "<|endoftext|>"
"""Ends every document; also the tokenizer's beginning-of-text and padding token. Its id is 0."""


def train(texts: Iterator[str], vocabulary_size: int) -> Tokenizer:
    """The tokenizer of `vocabulary_size` tokens (fewer where the text has too few pairs). Any text can be written
    with it and comes back byte for byte. The same texts give the same tokenizer, in whatever order they come."""
    tokenizer = Tokenizer(models.BPE())
    # Numbers are cut into digits, so that 1987 and 1988 share what they share.
    splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes what `transformers.AutoTokenizer` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


# The ids at which a server stops, by a model's generation_config.json.


def stop_tokens_of(generation_config: Path) -> list[int]:
    """The ids of `eos_token_id` of a generation_config.json, none where there is no such file.

    Raises InputError where the file says something else.
    """
    if not generation_config.exists():
        return []
    try:
        values = json.loads(generation_config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        values = error
    named = values.get("eos_token_id") if isinstance(values, dict) else values
    named = [] if named is None else [named] if isinstance(named, int) else named
    if (
        not isinstance(values, dict)
        or not isinstance(named, list)
        or not all(type(id_) is int and id_ >= 0 for id_ in named)
    ):
        what = f"generation_config.json must be an object with token ids under eos_token_id; it has {named!s:.80}"
        raise InputError(what, where=str(generation_config), fix="Correct the file, or fetch the model again.")
    return named
