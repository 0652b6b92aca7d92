"""`output` of a cleaning job: a tokenised corpus mixed by tokens, or a data set of rows split into parts."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from rayloom.specs.base import ModelRef, Name, Spec
from rayloom.specs.cleaning.augmentation import Augmentation


class TrainTokenizer(Spec):
    """A byte-level BPE tokenizer trained on the kept documents."""

    type: Literal["train"]
    vocabulary_size: Annotated[int, Field(ge=300)] = 8192
    """Tokens in all: 256 bytes, the end-of-text token, and merges."""
    sample_documents: Annotated[int, Field(ge=1)] = 100_000
    """About this many documents, chosen by hash, are read to learn the merges."""


class ExistingTokenizer(Spec):
    """The tokenizer of a model in the store."""

    type: Literal["model"]
    model: ModelRef
    """The model whose tokenizer is used."""
    new_terms: tuple[Annotated[str, StringConstraints(min_length=2, pattern=r"^\S+$")], ...] = ()
    """Words of a new domain that become one token each; training on from the model gives them embeddings."""


class Mixture(Spec):
    """How much of each source and domain the corpus has, counted in tokens of whole documents.

    A source with n tokens and weight w gives λ·w·n tokens, but at most its `max_tokens`, with one λ for all sources. λ
    is as large as total_tokens, max_domain_share and n allow; if there are no limits, the sources of the largest weight
    are taken whole. Documents are chosen by a hash, so that a smaller budget takes a subset of a larger one's.
    """

    total_tokens: Annotated[int, Field(ge=1)] | None = None
    """At most this many tokens in all, training and held out."""
    max_domain_share: dict[Name, Annotated[float, Field(gt=0, lt=1)]] = Field(default_factory=dict)
    """At most this share of all tokens is of the domain: `{encyclopedia: 0.4}`."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed takes other documents."""


class TokensOutput(Spec):
    """A corpus for language modelling: documents tokenised and packed into shards, some of them held out."""

    type: Literal["tokens"]
    tokenizer: Annotated[TrainTokenizer | ExistingTokenizer, Field(discriminator="type")]
    """Where the tokenizer comes from: trained on these documents, or a model's own."""
    heldout_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    """Part of the documents, chosen by a hash of their text, that is never trained on."""
    min_document_tokens: Annotated[int, Field(ge=1)] = 1
    """Shorter documents are dropped, as `too_few_tokens`; the end-of-text token counts."""
    max_document_tokens: Annotated[int, Field(ge=16)] | None = None
    """Longest document in tokens, its end-of-text token included; `when_longer` says what happens to longer ones. Those
    that are dropped are counted as `too_many_tokens`. Default: no limit."""
    when_longer: Literal["drop", "split", "truncate"] = "drop"
    """split: each piece its own document. truncate: the rest is left out. Both are counted as shortened."""
    shard_tokens: Annotated[int, Field(ge=1024)] = 50_000_000
    """Tokens in one file of the corpus; the last file may have fewer."""
    mixture: Mixture = Mixture()
    """How much of each source and domain is taken."""


class RowsOutput(Spec):
    """A data set of rows: train.jsonl, validation.jsonl and test.jsonl with `text`, `label` and the kept columns.

    The split is stratified: a row's part depends on a hash of its folded text, and each label has its share in each
    part. Identical texts are never in different parts, and only one of several near duplicates is kept.
    """

    type: Literal["rows"]
    validation_share: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """Part of the rows that goes to validation.jsonl."""
    test_share: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """Part of the rows that goes to test.jsonl."""
    max_label_ratio: Annotated[float, Field(ge=1)] | None = None
    """No label has more than this many times the training rows of the rarest label; further rows are dropped as
    `over_represented_label`. Validation and test are not balanced."""
    conflicting_labels: Literal["keep", "drop"] = "keep"
    """Duplicates with different labels are listed in review/likely_wrong_labels.jsonl. keep: one of them is kept, as of
    any duplicates. drop: all are dropped, as `conflicting_labels`."""
    augmentation: Augmentation | None = None
    """Further training rows, made from the training rows. Default: none."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed takes other rows where a label has too many."""
