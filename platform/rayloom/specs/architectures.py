"""`architecture` of a training job: the shape of a model with fresh weights, through transformers' own classes."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import Spec


class DecoderArchitecture(Spec):
    """A Llama-style decoder with fresh weights. Its vocabulary is that of the corpus' tokenizer."""

    type: Literal["decoder"]
    num_layers: Annotated[int, Field(ge=1)] = 12
    hidden_size: Annotated[int, Field(ge=8)] = 768
    num_heads: Annotated[int, Field(ge=1)] | None = None
    """Default: one head for every 64 of hidden_size."""
    num_key_value_heads: Annotated[int, Field(ge=1)] | None = None
    """Fewer than num_heads is grouped-query attention (Ainslie et al. 2023). Default: num_heads."""
    feed_forward_size: Annotated[int, Field(ge=8)] | None = None
    """Default: 8/3 of hidden_size rounded up to a multiple of 64, as SwiGLU has three matrices (Shazeer 2020)."""
    max_positions: Annotated[int, Field(ge=8)] = 2048
    tied_embeddings: bool = True

    @property
    def heads(self) -> int:
        return self.num_heads or max(1, self.hidden_size // 64)

    @property
    def feed_forward(self) -> int:
        return self.feed_forward_size or -(-self.hidden_size * 8 // 3 // 64) * 64

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide by {self.heads} heads")
        if self.heads % (self.num_key_value_heads or self.heads):
            raise ValueError(f"{self.heads} heads do not divide into {self.num_key_value_heads} key-value heads")
        return self
