"""`objective` of a training job: what the model predicts."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from rayloom.specs.base import Spec

NoiseShare = Annotated[float, Field(gt=0, lt=1)]


class Causal(Spec):
    """Each token from those before it: decoders."""

    type: Literal["causal"]


class Masked(Spec):
    """Hidden tokens from both sides: encoders (Devlin et al. 2019, section 3.1).

    Of the chosen tokens 80 % become the mask, 10 % another token, 10 % stay as they were.
    """

    type: Literal["masked"]
    share: NoiseShare = 0.15
    """Part of a row's tokens that is chosen, anew each time the row is read."""
    whole_words: bool = False
    """All pieces of a word are chosen together, or none (Cui et al. 2021)."""


class SpanCorruption(Spec):
    """Spans replaced by sentinels, for which the decoder writes what stood there (Raffel et al. 2020, 3.1.4)."""

    type: Literal["span"]
    share: NoiseShare = 0.15
    """Part of each text that is replaced, anew each time it is read."""
    mean_span_tokens: Annotated[float, Field(ge=1)] = 3.0
    """Mean length of a replaced span, in tokens."""
    num_sentinels: Annotated[int, Field(ge=1)] = 100
    """Sentinel tokens in the vocabulary: the most spans that one text can have."""

    def most_spans(self, num_tokens: int) -> int:
        """Spans in a text of so many tokens."""
        return max(1, math.ceil(num_tokens * self.share / self.mean_span_tokens))


Objective = Annotated[Causal | Masked | SpanCorruption, Field(discriminator="type")]

OBJECTIVE_OF: dict[str, Causal | Masked | SpanCorruption] = {
    "decoder": Causal(type="causal"),
    "encoder": Masked(type="masked"),
    "encoder-decoder": SpanCorruption(type="span"),
}
"""Each architecture's own objective with its usual numbers."""
