"""`kind: clean`: raw text in, a deduplicated, tokenised and packed corpus out."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import DatasetRef, JobSpec, ModelRef, Name, Share, Spec


class TextSource(Spec):
    """Where documents come from, and what they are."""

    name: Name
    dataset: DatasetRef
    """An imported data set, or a folder's path."""
    files: str = "**"
    """Glob pattern of the files inside it."""
    format: Literal["jsonl", "csv", "text"]
    """text: one document a file, or paragraphs where `split_on_blank_lines`."""
    text_column: str = "text"
    title_column: str | None = None
    """Put before the text on a line of its own."""
    split_on_blank_lines: bool = False
    domain: Name
    """For the counts by domain, and for limits that differ by domain."""
    licence: str
    limit_documents: Annotated[int, Field(ge=1)] | None = None


class QualityRules(Spec):
    """Documents that break a limit are dropped, each with the limit's name as the reason."""

    min_words: Annotated[int, Field(ge=0)] = 50
    """`too_few_words` (Gopher, Rae et al. 2021, table A1)."""
    max_words: Annotated[int, Field(ge=1)] = 100_000
    """`too_many_words` (Gopher)."""
    min_mean_word_characters: Annotated[float, Field(ge=0)] = 3.0
    """`words_too_short` (Gopher)."""
    max_mean_word_characters: Annotated[float, Field(gt=0)] = 10.0
    """`words_too_long` (Gopher)."""
    max_symbol_word_ratio: Annotated[float, Field(ge=0)] = 0.1
    """`too_many_symbols`: `#` or an ellipsis per word (Gopher)."""
    min_stop_words: Annotated[int, Field(ge=0)] = 2
    """`too_few_stop_words`: of the, be, to, of, and, that, have, with (Gopher)."""
    min_alphabetic_words_share: Share = 0.8
    """`too_few_alphabetic_words` (Gopher)."""
    max_bullet_lines_share: Share = 0.9
    """`too_many_bullet_lines` (Gopher)."""
    max_ellipsis_lines_share: Share = 0.3
    """`too_many_ellipsis_lines` (Gopher)."""
    max_duplicate_lines_share: Share = 0.3
    """`too_many_duplicate_lines` (Gopher repetition)."""


class Deduplication(Spec):
    """Exact duplicates by normalised text; near duplicates by MinHash candidates verified by exact Jaccard."""

    near_duplicates: bool = True
    similarity_threshold: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Jaccard similarity of the two sets of word 5-shingles, computed exactly on every candidate pair."""
    num_bands: Annotated[int, Field(ge=1)] = 16
    rows_per_band: Annotated[int, Field(ge=1)] = 8


class TrainTokenizer(Spec):
    """A byte-level BPE tokenizer trained on the kept documents."""

    type: Literal["train"]
    vocabulary_size: Annotated[int, Field(ge=300)] = 8192
    sample_documents: Annotated[int, Field(ge=1)] = 100_000


class ExistingTokenizer(Spec):
    """The tokenizer of a model in the store."""

    type: Literal["model"]
    model: ModelRef


class CleanSpec(JobSpec):
    """A corpus: documents cleaned, deduplicated, split, tokenised and packed into shards."""

    kind: Literal["clean"]
    sources: Annotated[tuple[TextSource, ...], Field(min_length=1)]
    quality: QualityRules = QualityRules()
    deduplication: Deduplication = Deduplication()
    tokenizer: Annotated[TrainTokenizer | ExistingTokenizer, Field(discriminator="type")]
    heldout_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    """Part of the documents, chosen by a hash of their text, that is never trained on."""
    max_bad_rows_share: Share = 0.01
    """Rows that cannot be read are quarantined and counted; past this share the job fails."""
    shard_tokens: Annotated[int, Field(ge=1024)] = 50_000_000
    seed: int = 0

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [source.name for source in self.sources]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two sources have the name {', '.join(sorted(twice))}")
        return self
