"""Token ids of texts that repeat each other's beginnings, as the turns of a conversation do.

A tokenizer splits a text at its added tokens first (`<|im_end|>`), and then works on what stands between two of them by
itself. So each such segment is tokenised once, however many texts hold it. Whether that is true of a tokenizer is tried
on texts of many kinds; where it is not, every text is tokenised as a whole.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rayloom.text.bulk_tokenizer import BulkTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ID_BYTES = 4
_PIECES = (
    *("Hello", " world ", "\n", "\n\n", "one\n\ntwo", "  ", "1234", "你好", "🙂", "naïve", "\t x", "'s", "▁"),
    *("e\u0301", ".", "\u3000", "user\n", "{\"a\": 1}", "A B", "\r\n", "  three", "four  "),
)  # fmt: skip
"""What segments of a conversation begin and end with."""


class SegmentedTokenizer:
    """A tokenizer without special tokens of its own accord: a chat template writes all that there are.

    Ids are bytes: little-endian uint32, one after the other, which are joined and compared without a look at each.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        # The template writes every special token itself; a tokenizer that adds its own would double the first.
        self._tokenizer = BulkTokenizer(tokenizer.backend_tokenizer, add_special_tokens=False)
        self._separators = _separators(tokenizer)
        pattern = "|".join(re.escape(text) for text in sorted(self._separators, key=len, reverse=True))
        self._pattern = re.compile(f"({pattern})") if pattern else None
        if self._pattern is not None:
            probes = [*_PIECES, *_probes(next(iter(self._separators)))]
            if self._whole(probes) != [ids for (ids,) in self._by_segments(self._pattern, [[text] for text in probes])]:
                self._pattern = None

    @property
    def is_segmented(self) -> bool:
        """Whether segments are tokenised, and not whole texts."""
        return self._pattern is not None

    def ids(self, groups: Sequence[Sequence[str]]) -> Iterator[list[bytes]]:
        """The ids of each text of each group, the same as if it were tokenised alone and as a whole.

        A text that goes on where the one before it in its group ended costs no more than what it adds.
        """
        if self._pattern is not None:
            return self._by_segments(self._pattern, groups)
        ids = iter(self._whole([text for group in groups for text in group]))
        return ([next(ids) for _ in group] for group in groups)

    def _by_segments(self, pattern: re.Pattern[str], groups: Sequence[Sequence[str]]) -> Iterator[list[bytes]]:
        split = [list(self._split(pattern, group)) for group in groups]
        plain = dict.fromkeys(segment for texts in split for text in texts for segment in (*text.whole, text.rest))
        new = [segment for segment in plain if segment and segment not in self._separators]
        known = self._separators | dict(zip(new, self._whole(new), strict=True)) | {"": b""}
        return (_joined(texts, known) for texts in split)

    def _split(self, pattern: re.Pattern[str], texts: Sequence[str]) -> Iterator[_SplitText]:
        before = ""
        for text in texts:
            goes_on = bool(before) and text.startswith(before)
            *whole, rest = pattern.split(text[len(before) :] if goes_on else text)
            before = text[: len(text) - len(rest)]
            yield _SplitText(goes_on, whole, rest)

    def _whole(self, texts: Sequence[str]) -> list[bytes]:
        ids, ends = self._tokenizer.flat(texts)
        packed, bounds = ids.astype("<u4", copy=False).tobytes(), [0, *(ends * ID_BYTES).tolist()]
        return [packed[begin:end] for begin, end in itertools.pairwise(bounds)]


class _SplitText(NamedTuple):
    """A text in segments."""

    goes_on: bool
    """Whether it begins with all of the text before it, up to that one's last separator; its segments follow there."""
    whole: Sequence[str]
    """Segments up to the last separator."""
    rest: str
    """What follows that separator."""


def _joined(texts: Sequence[_SplitText], known: Mapping[str, bytes]) -> list[bytes]:
    found, before = [], b""
    for text in texts:
        whole = b"".join([known[segment] for segment in text.whole])
        before = before + whole if text.goes_on else whole
        found.append(before + known[text.rest])
    return found


def _separators(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """The ids of added tokens that end a segment wherever they stand; none where a token takes in its surroundings."""
    added = tokenizer.added_tokens_decoder
    if any(token.lstrip or token.rstrip or token.single_word or token.normalized for token in added.values()):
        return {}
    return {token.content: number.to_bytes(ID_BYTES, "little") for number, token in added.items()}


def _probes(separator: str) -> Iterable[str]:
    for first in _PIECES:
        for second in _PIECES:
            yield f"{first}{separator}{second}"
        yield f"{separator}{separator}{first}"
