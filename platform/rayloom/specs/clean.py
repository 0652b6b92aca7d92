"""`kind: clean`: raw text in, a deduplicated, tokenised and packed corpus out."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from rayloom.specs.base import DatasetRef, JobSpec, ModelRef, Name, Share, Spec
from rayloom.specs.rules import Rules


class Columns(Spec):
    """Which columns of a row are its text."""

    text_columns: Annotated[tuple[str, ...], Field(min_length=1)] = ("text",)
    """Joined by line ends, empty ones left out. A row that lacks one, or has null in it, cannot be read."""


class JsonLines(Columns):
    """One JSON object a line."""

    type: Literal["jsonl"]


class JsonArray(Columns):
    """One JSON array of objects a file."""

    type: Literal["json"]


class Csv(Columns):
    """Comma-separated values with a header."""

    type: Literal["csv"]


class Parquet(Columns):
    """Parquet files."""

    type: Literal["parquet"]


class Arrow(Columns):
    """Arrow files, as a stream or with a footer, such as the data files of a saved Hugging Face data set."""

    type: Literal["arrow"]


class Warc(Spec):
    """Web archives: the main text of every HTML page that was answered with status 200."""

    type: Literal["warc"]
    main_content_only: bool = True
    """Leave out navigation, footers and the like (resiliparse)."""


class PlainText(Spec):
    """Text files."""

    type: Literal["text"]
    documents: Literal["file", "paragraph", "line"] = "file"
    """What one document is; paragraphs are set apart by empty lines."""


class TextSource(Spec):
    """Where documents come from, and what they are."""

    name: Name
    dataset: DatasetRef
    """An imported data set, or a folder's path."""
    files: str = "**"
    """Glob pattern of the files inside it."""
    format: Annotated[JsonLines | JsonArray | Csv | Parquet | Arrow | PlainText | Warc, Field(discriminator="type")]
    domain: Name
    """For the counts by domain, and for rules that differ by domain."""
    limit_documents: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many rows, in the order of the files."""


class Normalisation(Spec):
    """How text is written before anything judges or compares it. Unicode is always brought to NFC."""

    fix_encoding: bool = True
    """Mends text that was decoded with the wrong encoding, and HTML entities (ftfy)."""
    straight_quotes: bool = True
    """Curly quotes become straight ones, ligatures their letters."""
    white_space: Literal["collapse", "keep"] = "collapse"
    """collapse: one space between words, at most one empty line. keep: for code, only line ends are made alike."""


class Deduplication(Spec):
    """Exact duplicates by normalised text; near duplicates by MinHash candidates verified by exact Jaccard.

    Both compare words after case folding and collapsing white space. Of each cluster (single link) the longest document
    stays, of equally long ones the first.
    """

    near_duplicates: bool = True
    similarity_threshold: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Jaccard similarity of two sets of shingles, computed exactly on every candidate pair."""
    shingle_words: Annotated[int, Field(ge=1, le=50)] = 5
    """Words in a shingle; for Chinese, Japanese and Thai, characters."""
    num_bands: Annotated[int, Field(ge=1, le=255)] = 16
    rows_per_band: Annotated[int, Field(ge=1, le=64)] = 8
    """Pairs of similarity s become candidates with probability 1 − (1 − s^rows)^bands (Leskovec et al., ch. 3)."""


class TrainTokenizer(Spec):
    """A byte-level BPE tokenizer trained on the kept documents."""

    type: Literal["train"]
    vocabulary_size: Annotated[int, Field(ge=300)] = 8192
    """Tokens in all: 256 bytes, the end-of-text token, and merges."""
    sample_documents: Annotated[int, Field(ge=1)] = 100_000
    """About so many documents, chosen by hash, are read to learn the merges."""


class ExistingTokenizer(Spec):
    """The tokenizer of a model in the store."""

    type: Literal["model"]
    model: ModelRef
    new_terms: tuple[Annotated[str, StringConstraints(min_length=2, pattern=r"^\S+$")], ...] = ()
    """Words of a new domain that become one token each; training on from the model gives them embeddings."""


class TokensOutput(Spec):
    """A corpus for language modelling: documents tokenised and packed into shards, some of them held out."""

    type: Literal["tokens"]
    tokenizer: Annotated[TrainTokenizer | ExistingTokenizer, Field(discriminator="type")]
    heldout_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    """Part of the documents, chosen by a hash of their text, that is never trained on."""
    shard_tokens: Annotated[int, Field(ge=1024)] = 50_000_000


class CleanSpec(JobSpec):
    """A corpus: documents cleaned, deduplicated, split, tokenised and packed into shards."""

    kind: Literal["clean"]
    sources: Annotated[tuple[TextSource, ...], Field(min_length=1)]
    normalisation: Normalisation = Normalisation()
    rules: Rules = Rules()
    domain_rules: dict[Name, Rules] = Field(default_factory=dict)
    """For the named domains, in place of `rules`."""
    domain_normalisation: dict[Name, Normalisation] = Field(default_factory=dict)
    """For the named domains, in place of `normalisation`."""
    deduplication: Deduplication | None = Deduplication()
    """null keeps duplicates."""
    output: Annotated[TokensOutput, Field()]
    max_bad_rows_share: Share = 0.01
    """Rows that cannot be read are quarantined and counted; past this share the job fails."""
    max_row_bytes: Annotated[int, Field(ge=1024)] = 16 << 20
    """A longer row is quarantined."""
    sample_rows_per_reason: Annotated[int, Field(ge=0)] = 5
    """Kept and dropped documents shown in the report, for a person to read."""
    chunk_bytes: Annotated[int, Field(ge=1 << 16), "unfingerprinted"] = 4 << 20
    """Text that one task works on at once. It changes speed and memory, never the result."""

    def rules_of(self, domain: str) -> Rules:
        return self.domain_rules.get(domain, self.rules)

    def normalisation_of(self, domain: str) -> Normalisation:
        return self.domain_normalisation.get(domain, self.normalisation)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [source.name for source in self.sources]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two sources have the name {', '.join(sorted(twice))}")
        return self

    @model_validator(mode="after")
    def _domains_exist(self) -> Self:
        domains = {source.domain for source in self.sources}
        unknown = sorted({*self.domain_rules, *self.domain_normalisation} - domains)
        if unknown:
            raise ValueError(f"no source has the domain {', '.join(unknown)}; there are: {', '.join(sorted(domains))}")
        return self
