"""Tokenisation of documents: an end-of-text token after each, and the limits on its length in tokens."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rayloom.data.rules.examined_text import Drop
from rayloom.specs.cleaning.output import TokensOutput
from rayloom.text.bulk_tokenizer import BulkTokenizer
from rayloom.text.packed.shards import token_type


class Encoder:
    """A tokenizer folder as a function from texts to token ids, each text ended by the end-of-text token."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._end = self._tokenizer.token_to_id(end_token(folder))
        self._ids = BulkTokenizer(self._tokenizer, add_special_tokens=True)
        self.dtype = token_type(self._tokenizer.get_vocab_size())

    def __call__(self, texts: list[str]) -> list[NDArray[Any]]:
        ids, ends = self._ids.flat(texts)
        return [self._ended(one) for one in np.split(ids.astype(self.dtype), ends[:-1])]

    def _ended(self, ids: NDArray[Any]) -> NDArray[Any]:
        return ids if len(ids) and ids[-1] == self._end else np.append(ids, np.asarray(self._end, self.dtype))

    def num_bytes(self, tokens: NDArray[Any]) -> int:
        """Bytes of the text that the tokens encode."""
        return len(self._tokenizer.decode(tokens.tolist()).encode())


def encoder_of(folder: Path) -> Encoder:
    """The folder's encoder, one a process: `tokenizers` never frees word caches, fastokens takes a second."""
    return _encoder_of(folder, (folder / "tokenizer.json").stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _encoder_of(folder: Path, _changed_ns: int) -> Encoder:
    return Encoder(folder)


def end_token(folder: Path) -> str:
    """The text of a tokenizer folder's end-of-text token; of an encoder's without one, the token between texts.

    Raises KeyError if there is neither.
    """
    config = json.loads((folder / "tokenizer_config.json").read_text())
    token = config.get("eos_token") or config.get("sep_token")
    if token is None:
        raise KeyError("eos_token")
    return str(token["content"] if isinstance(token, dict) else token)


def fitted(tokens: NDArray[Any], output: TokensOutput) -> list[NDArray[Any]] | Drop:
    """The document in pieces of allowed length (usually one), each with an end-of-text token; or why it is dropped."""
    if len(tokens) < output.min_document_tokens:
        return Drop("too_few_tokens", len(tokens))
    longest = output.max_document_tokens
    if longest is None or len(tokens) <= longest:
        return [tokens]
    if output.when_longer == "drop":
        return Drop("too_many_tokens", len(tokens))
    if output.when_longer == "truncate":
        return [np.append(tokens[: longest - 1], tokens[-1])]
    text = tokens[:-1]
    return [np.append(text[begin : begin + longest - 1], tokens[-1]) for begin in range(0, len(text), longest - 1)]
