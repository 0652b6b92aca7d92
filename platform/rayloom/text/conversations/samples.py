"""Samples to train on: token ids as bytes, little-endian uint32, and where their labels are."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from rayloom.text.conversations.segments import ID_BYTES


@dataclass(frozen=True)
class Sample:
    """Token ids to train on, and which of them are labels."""

    ids: bytes
    """Little-endian uint32, one after the other."""
    spans: tuple[tuple[int, int], ...]
    """Where the labels are: first place, and the place behind the last."""

    @property
    def num_tokens(self) -> int:
        return len(self.ids) // ID_BYTES

    @property
    def num_trained(self) -> int:
        return sum(end - begin for begin, end in self.spans)

    @functools.cached_property
    def tokens(self) -> list[int]:
        """The ids as numbers."""
        return numbers_of(self.ids)

    @functools.cached_property
    def trained(self) -> list[bool]:
        """Whether each token is a label."""
        labels = np.zeros(self.num_tokens, np.bool_)
        for begin, end in self.spans:
            labels[begin:end] = True
        return list(labels.tolist())

    def shortened(self, num_tokens: int) -> Sample:
        """The beginning of the sample."""
        spans = tuple((begin, min(end, num_tokens)) for begin, end in self.spans if begin < num_tokens)
        return Sample(self.ids[: num_tokens * ID_BYTES], spans)


class JoinedTurns:
    """Turns put together into as few samples as their prompts allow."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._ids = b""
        self._spans: list[tuple[int, int]] = []

    def add(self, prompt: bytes, answer: bytes, is_trained: bool) -> None:
        if not prompt.startswith(self._ids):
            self._samples.append(Sample(self._ids, tuple(self._spans)))
            self._spans = []
        self._ids = prompt + answer
        if is_trained:
            self._spans.append((len(prompt) // ID_BYTES, len(self._ids) // ID_BYTES))

    def finished(self) -> list[Sample]:
        return [*self._samples, Sample(self._ids, tuple(self._spans))]


def packed_id(token: int) -> bytes:
    return int(token).to_bytes(ID_BYTES, "little")


def numbers_of(ids: bytes) -> list[int]:
    return list(np.frombuffer(ids, "<u4").tolist())


def place_of(token: bytes, ids: bytes) -> int:
    """Where the bytes of a token begin in those of many; -1 if it is not among them."""
    places = np.flatnonzero(np.frombuffer(ids, "<u4") == int.from_bytes(token, "little"))
    return int(places[0]) * ID_BYTES if len(places) else -1
