"""BIO tags and the entities that they mean, both ways: for words, and for the sub-words of a tokenizer.

A sub-word belongs to an entity where it overlaps it. The first of an entity's sub-words is tagged B, the others I, so
that nothing is lost where an entity begins inside a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rayloom.text.labelled.examples import ExampleError, Span

_TAG = re.compile(r"([BI])-(.+)")


def spans_of_words(
    words: Sequence[str], tags: Sequence[str], between: str, names: Mapping[str, str]
) -> tuple[Span, ...]:
    """The entities of words that stand one behind the other with `between` between them.

    Raises ExampleError where a tag is none, or where I follows nothing that it could go on.
    """
    spans: list[Span] = []
    start, before = 0, "O"
    for word, tag in zip(words, tags, strict=True):
        end = start + len(word)
        if tag != "O":
            found = _TAG.fullmatch(tag)
            if found is None:
                raise ExampleError("bad_tag", f"{word!r} is tagged {tag!r}, which is not O, B-… or I-…")
            place, entity = found[1], names.get(found[2], found[2])
            if place == "B":
                spans.append(Span(start, end, entity))
            elif before == "O" or before[2:] != tag[2:]:
                raise ExampleError("bad_tag", f"{word!r} is tagged {tag} after {before}: an entity begins with B")
            else:
                spans[-1] = Span(spans[-1].start, end, entity)
        start, before = end + len(between), tag
    return tuple(spans)


def tags_of_tokens(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[str]:
    """The tag of each token by the characters that it covers. `spans` in order and without overlap."""
    tags, begun, number = [], -1, 0
    for start, end in offsets:
        while number < len(spans) and spans[number].end <= start:
            number += 1
        if number == len(spans) or spans[number].start >= end or start == end:
            tags.append("O")
        else:
            tags.append(f"{'I' if begun == number else 'B'}-{spans[number].label}")
            begun = number
    return tags


def spans_of_tokens(offsets: Sequence[tuple[int, int]], tags: Sequence[str]) -> list[Span]:
    """The entities that a model's tags mean. I that follows another kind, or nothing, begins one, as for CoNLL."""
    spans: list[Span] = []
    before = "O"
    for (start, end), tag in zip(offsets, tags, strict=True):
        if tag != "O":
            if tag[0] == "I" and before[2:] == tag[2:]:
                spans[-1] = Span(spans[-1].start, end, tag[2:])
            else:
                spans.append(Span(start, end, tag[2:]))
        before = tag
    return spans
