"""`objective` of a training job: what the model predicts."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rayloom.specs.base import Spec

if TYPE_CHECKING:
    from rayloom.specs.train import TrainSpec

NoiseShare = Annotated[float, Field(gt=0, lt=1)]


class Causal(Spec):
    """Causal language modelling, for decoders: predicts each token from those before it."""

    type: Literal["causal"]


class Masked(Spec):
    """Masked language modelling, for encoders: predicts tokens from both sides (Devlin et al. 2019, section 3.1).

    Of the predicted tokens, 80 % are replaced by the mask, 10 % by a random token, and 10 % are unchanged.
    """

    type: Literal["masked"]
    share: NoiseShare = 0.15
    """Share of a row's tokens to predict, chosen anew each time the row is read."""
    whole_words: bool = False
    """Choose whole words: all tokens of a word or none (Cui et al. 2021)."""


class SpanCorruption(Spec):
    """Span corruption, for encoder-decoders: spans become sentinels, the decoder generates them (Raffel et al. 2020,
    section 3.1.4)."""

    type: Literal["span"]
    share: NoiseShare = 0.15
    """Share of each text's tokens to replace, chosen anew each time the text is read."""
    mean_span_tokens: Annotated[float, Field(ge=1)] = 3.0
    """Mean length of a replaced span, in tokens."""
    num_sentinels: Annotated[int, Field(ge=1)] = 100
    """Sentinel tokens in the vocabulary: the most spans that one text can have."""

    def most_spans(self, num_tokens: int) -> int:
        """The largest number of spans in a text of `num_tokens` tokens."""
        return max(1, math.ceil(num_tokens * self.share / self.mean_span_tokens))


Objective = Annotated[Causal | Masked | SpanCorruption, Field(discriminator="type")]

OBJECTIVE_OF: dict[str, Causal | Masked | SpanCorruption] = {
    "decoder": Causal(type="causal"),
    "encoder": Masked(type="masked"),
    "encoder-decoder": SpanCorruption(type="span"),
}
"""The default objective of each architecture."""


def check_objective(job: "TrainSpec") -> None:
    """Raises ValueError if the objective does not fit the rest of the spec."""
    objective = job.objective_in_use
    if job.architecture is not None and objective.type != OBJECTIVE_OF[job.architecture.type].type:
        own = OBJECTIVE_OF[job.architecture.type].type
        raise ValueError(f"architecture {job.architecture.type} is trained with objective {own}, not {objective.type}")
    if job.prompt is not None and job.data.type == "labelled":
        return
    if objective.type != "causal" and job.data.type != "corpus":
        raise ValueError(f"objective {objective.type} needs data of type corpus")
    if objective.type != "causal" and job.adapter.type != "none":
        raise ValueError(f"objective {objective.type} trains whole weights: leave adapter out")
    if isinstance(objective, SpanCorruption):
        spans = objective.most_spans(job.sequence_length_tokens)
        if spans > objective.num_sentinels:
            raise ValueError(
                f"rows of {job.sequence_length_tokens} tokens can have {spans} spans, but objective.num_sentinels "
                f"is {objective.num_sentinels}: give {spans}"
            )
