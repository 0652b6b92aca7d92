"""`architecture` of a training job: the shape of a model with fresh weights, through transformers' own classes.

The vocabulary is that of the corpus' tokenizer. Defaults are those of well-known models of each family.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import Spec

Layers = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=8)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class RopeScaling(Spec):
    """Scaling of rotary position embeddings to longer contexts."""

    type: Literal["linear", "dynamic", "yarn"]
    """linear: Chen et al. 2023; dynamic: NTK-aware; yarn: Peng et al. 2023."""
    factor: Annotated[float, Field(gt=1)]
    """How many times longer than `original_max_positions` texts may be."""
    original_max_positions: Size
    """Longest text, in tokens, without scaling."""


class _Shape(Spec):
    num_layers: Layers = 12
    """Layers; of an encoder-decoder, of its encoder."""
    hidden_size: Size = 768
    """Width of the hidden states."""
    num_heads: Annotated[int, Field(ge=1)] | None = None
    """Default: one head for every 64 of hidden_size."""
    feed_forward_size: Size | None = None
    """Default: 4 × hidden_size; where it is gated 8/3 of it, rounded up to a multiple of 64 (Shazeer 2020)."""

    @property
    def heads(self) -> int:
        return self.num_heads or max(1, self.hidden_size // 64)

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward is gated: three matrices instead of two."""
        raise TypeError(f"{type(self).__name__} does not say whether its feed-forward is gated")

    @property
    def feed_forward(self) -> int:
        usual = -(-self.hidden_size * 8 // 3 // 64) * 64 if self.is_gated else 4 * self.hidden_size
        return self.feed_forward_size or usual

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide by {self.heads} heads")
        return self


class DecoderArchitecture(_Shape):
    """A decoder, for the causal objective: llama (RMS norm, gated, rotary) or gpt2 (layer norm, learned positions)."""

    type: Literal["decoder"]
    family: Literal["llama", "gpt2"] = "llama"
    """Whose layers: llama (RMSNorm, rotary positions, gated feed-forward) or gpt2."""
    num_key_value_heads: Annotated[int, Field(ge=1)] | None = None
    """Fewer than num_heads is grouped-query attention (Ainslie et al. 2023). Default: num_heads. llama only."""
    activation: Literal["silu", "gelu", "relu"] | None = None
    """Default: silu for llama, which makes SwiGLU (Shazeer 2020); gelu for gpt2."""
    max_positions: Size = 2048
    """Longest text, in tokens."""
    tied_embeddings: bool = True
    """Input and output embeddings are one matrix."""
    dropout: Dropout = 0.0
    """llama: in attention only."""
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    """Base of the rotary frequencies; larger for longer texts. llama only."""
    rope_scaling: RopeScaling | None = None
    """llama only."""

    @property
    def is_gated(self) -> bool:
        return self.family == "llama"

    @model_validator(mode="after")
    def _family_has_it(self) -> Self:
        if self.heads % (self.num_key_value_heads or self.heads):
            raise ValueError(f"{self.heads} heads do not divide into {self.num_key_value_heads} key-value heads")
        if self.family == "gpt2" and (self.num_key_value_heads or self.rope_scaling):
            raise ValueError("family gpt2 has neither num_key_value_heads nor rope_scaling: use llama")
        return self


class EncoderArchitecture(_Shape):
    """An encoder, for the masked objective: bert (Devlin et al. 2019), or modernbert (Warner et al. 2024).

    modernbert has rotary positions, a gated feed-forward, no biases, and local attention in two of three layers.
    """

    type: Literal["encoder"]
    family: Literal["bert", "modernbert"] = "bert"
    """Whose layers: bert or modernbert."""
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    """Function in the feed-forward layers."""
    max_positions: Size = 512
    """Longest text, in tokens."""
    tied_embeddings: bool = True
    """Input and output embeddings are one matrix."""
    dropout: Dropout = 0.1
    """Part of the activations that is zeroed in training."""

    @property
    def is_gated(self) -> bool:
        return self.family == "modernbert"


class EncoderDecoderArchitecture(_Shape):
    """A T5-style encoder and decoder, for the span objective (Raffel et al. 2020; gated as in version 1.1).

    Relative positions work for any length. Embeddings are tied, as in transformers.
    """

    type: Literal["encoder-decoder"]
    num_decoder_layers: Layers | None = None
    """Default: num_layers, which then counts each of both."""
    activation: Literal["gated-gelu", "gated-silu", "relu"] = "gated-gelu"
    """Function in the feed-forward layers."""
    dropout: Dropout = 0.1
    """Part of the activations that is zeroed in training."""

    @property
    def is_gated(self) -> bool:
        return self.activation.startswith("gated")

    @property
    def decoder_layers(self) -> int:
        return self.num_decoder_layers or self.num_layers


Architecture = Annotated[
    DecoderArchitecture | EncoderArchitecture | EncoderDecoderArchitecture, Field(discriminator="type")
]
