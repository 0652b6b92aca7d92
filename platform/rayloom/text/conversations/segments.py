"""Token ids of texts that repeat each other's beginnings, as the turns of a conversation do.

A tokenizer splits a text at its added tokens first (`<|im_end|>`), and then works on what stands between two of them by
itself. So each such segment is tokenised once, however many texts hold it. Whether that is true of a tokenizer is tried
on texts of many kinds; where it is not, every text is tokenised as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rayloom.text.bulk_tokenizer import BulkTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PIECES = (
    *("Hello", " world ", "\n", "\n\n", "one\n\ntwo", "  ", "1234", "你好", "🙂", "naïve", "\t x", "'s", "▁"),
    *("e\u0301", ".", "\u3000", "user\n", "{\"a\": 1}", "A B", "\r\n", "  three", "four  "),
)  # fmt: skip
"""What segments of a conversation begin and end with."""


class SegmentedTokenizer:
    """A tokenizer without special tokens of its own accord: a chat template writes all that there are."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        # The template writes every special token itself; a tokenizer that adds its own would double the first.
        self._whole = BulkTokenizer(tokenizer.backend_tokenizer, add_special_tokens=False)
        self._separators = _separators(tokenizer)
        pattern = "|".join(re.escape(text) for text in sorted(self._separators, key=len, reverse=True))
        self._pattern = re.compile(f"({pattern})") if pattern else None
        if self._pattern is not None:
            probes = [*_PIECES, *_probes(next(iter(self._separators)))]
            if self._whole(probes) != list(self._by_segments(self._pattern, probes)):
                self._pattern = None

    @property
    def is_segmented(self) -> bool:
        """Whether segments are tokenised, and not whole texts."""
        return self._pattern is not None

    def ids(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """The ids of each text, the same as if it were tokenised alone and as a whole."""
        return iter(self._whole(texts)) if self._pattern is None else self._by_segments(self._pattern, texts)

    def _by_segments(self, pattern: re.Pattern[str], texts: Sequence[str]) -> Iterator[list[int]]:
        split = [[segment for segment in pattern.split(text) if segment] for text in texts]
        plain = list(dict.fromkeys(segment for segments in split for segment in segments))
        plain = [segment for segment in plain if segment not in self._separators]
        known = self._separators | dict(zip(plain, self._whole(plain), strict=True))
        return ([token for segment in segments for token in known[segment]] for segments in split)


def _separators(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """The ids of added tokens that end a segment wherever they stand; none where a token takes in its surroundings."""
    added = tokenizer.added_tokens_decoder
    if any(token.lstrip or token.rstrip or token.single_word or token.normalized for token in added.values()):
        return {}
    return {token.content: [number] for number, token in added.items()}


def _probes(separator: str) -> Iterable[str]:
    for first in _PIECES:
        for second in _PIECES:
            yield f"{first}{separator}{second}"
        yield f"{separator}{separator}{first}"
