"""Token ids of many texts at once: fastokens for tokenizers of which it gives Hugging Face's ids, else Hugging Face's.

fastokens computes byte-pair ids at some 40 times the speed of Hugging Face's tokenizers. Whether the ids are the same
is tried on texts of many kinds, and on the first texts that are given; where one differs, or where fastokens does not
know a part of the tokenizer (normalisers of BERT, Unigram), Hugging Face's tokenizer goes on alone. Loading it takes
about a second, so this is done when much is asked for.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any

import fastokens
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

CHARACTERS_BEFORE_FAST = 1 << 18
"""So many characters are tokenised by Hugging Face's tokenizer before the fast one is loaded."""
_PIECES = (
    *("Hello", " world ", "\n", "\n\n", "  ", "   three", "four  ", "\t x", "\r\n", "\u3000", "\u00a0", "\u200b"),
    *(
        "it's",
        "I'LL",
        "don’t",
        "naïve",
        "e\u0301",
        "ﬁ",
        "ß",
        "İ",
        "ǅ",
        "你好，世界",
        "こんにちは",
        "안녕",
        "Привет",
        "مرحبا",
    ),
    *("नमस्ते", "שלום", "🙂", "👩‍👩‍👧", "▁", "1234567", "٣٤", "½²Ⅷ", "3.14", ".", "...", "?!", "(a)"),
    *(
        "--",
        "__init__",
        '{"a": [1, 2]}',
        "https://a.b/c?d=e&f",
        "<div>",
        "$x^2$",
        "\x00",
        "\ufffd",
        "a" * 40,
        "Zq9" * 9,
    ),
)
"""What texts are made of, to compare tokenizers on."""


def use_one_thread() -> None:
    """For a process that has one core among others: called before it tokenises."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RAYON_NUM_THREADS"] = os.environ["FASTOKENS_BPE_THREADS"] = "1"


class BulkTokenizer:
    """A tokenizer as a function from many texts to their ids; no padding, nothing cut off."""

    def __init__(self, tokenizer: Tokenizer, *, add_special_tokens: bool) -> None:
        """`add_special_tokens`: whether those that the tokenizer puts around each text are given, too."""
        self._tokenizer, self._adds = tokenizer, add_special_tokens
        self._fast: fastokens.Tokenizer | None = None
        self._characters_left = CHARACTERS_BEFORE_FAST

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        ids, ends = self.flat(texts)
        values, bounds = ids.tolist(), [0, *ends.tolist()]
        return [values[begin:end] for begin, end in itertools.pairwise(bounds)]

    def flat(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of all texts, one after the other, and where those of each end."""
        if self._fast is None and self._characters_left > 0:
            self._characters_left -= sum(map(len, texts))
            if self._characters_left <= 0:
                self._fast = self._proven_fast(texts)
        return self._slowly(texts) if self._fast is None else self._fastly(self._fast, texts)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_fast": None, "_characters_left": CHARACTERS_BEFORE_FAST}

    @property
    def is_fast(self) -> bool:
        """Whether fastokens is in use."""
        return self._fast is not None

    def _proven_fast(self, texts: Sequence[str]) -> fastokens.Tokenizer | None:
        self._forget_settings()
        try:
            fast = fastokens.Tokenizer.from_json_str(self._tokenizer.to_str())
        except ValueError:  # it has a part that fastokens does not know
            return None
        tried = [*_PIECES, *map("".join, itertools.permutations(_PIECES, 2)), *texts]
        (ids, ends), (fast_ids, fast_ends) = self._slowly(tried), self._fastly(fast, tried)
        return fast if np.array_equal(ends, fast_ends) and np.array_equal(ids, fast_ids) else None

    def _fastly(self, fast: fastokens.Tokenizer, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        try:
            ids, bounds = fast.encode_batch_flat(list(texts), add_special_tokens=self._adds)
        except ValueError:  # a byte without a token: fastokens refuses the batch, Hugging Face leaves the byte out
            if len(texts) == 1:
                return self._slowly(texts)
            parts = [self._fastly(fast, [text]) for text in texts]
            lengths = [len(part_ids) for part_ids, _ in parts]
            return np.concatenate([part_ids for part_ids, _ in parts]), np.cumsum(lengths, dtype=np.int64)
        return np.frombuffer(ids, np.uint32), np.frombuffer(bounds, np.uint64)[1:].astype(np.int64)

    def _slowly(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        self._forget_settings()
        found = [one.ids for one in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=self._adds)]
        ends = np.cumsum([len(ids) for ids in found], dtype=np.int64)
        return np.asarray(list(itertools.chain.from_iterable(found)), np.uint32), ends

    def _forget_settings(self) -> None:
        """Takes away padding and truncation, which another caller of the same tokenizer may have set."""
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
