"""`kind: clean`: raw text in; a deduplicated, tokenised corpus or a split data set of rows out."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import Bundle, CorpusRef, JobSpec, ModelRef, Name, OutsideFiles, Share, Spec
from rayloom.specs.cleaning.output import RowsOutput, TokensOutput
from rayloom.specs.cleaning.rules import Rules
from rayloom.specs.cleaning.text_sources import DocumentFiles, TextSource
from rayloom.specs.row_files import files_at_uris


class Normalisation(Spec):
    """How text is normalised before rules and deduplication. Unicode is always normalised to NFC."""

    fix_encoding: bool = True
    """Mends text that was decoded with the wrong encoding, and HTML entities (ftfy)."""
    straight_quotes: bool = True
    """Curly quotes become straight ones, ligatures their letters."""
    white_space: Literal["collapse", "keep"] = "collapse"
    """collapse: one space between words, at most one empty line. keep: for code, only line ends are made alike."""


class Deduplication(Spec):
    """Removal of exact duplicates, and of near duplicates: MinHash candidates verified by exact Jaccard similarity.

    Words are compared after case folding and collapsing white space. Of each cluster (single linkage) the longest
    document is kept, of equally long ones the first.
    """

    against: tuple[CorpusRef, ...] = ()
    """Earlier corpora. Documents that are in one of them are dropped as duplicates, so that a corpus can grow in
    steps."""
    near_duplicates: bool = True
    """Also remove documents that are almost the same as another; false removes exact duplicates only."""
    similarity_threshold: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Jaccard similarity of two sets of shingles, computed exactly on every candidate pair."""
    shingle_words: Annotated[int, Field(ge=1, le=50)] = 5
    """Words in a shingle; for Chinese, Japanese and Thai, characters."""
    num_bands: Annotated[int, Field(ge=1, le=255)] = 16
    """Bands of the MinHash signature; more bands make more pairs candidates."""
    rows_per_band: Annotated[int, Field(ge=1, le=64)] = 8
    """Pairs of similarity s become candidates with probability 1 − (1 − s^rows)^bands (Leskovec et al., ch. 3)."""


class Decontamination(Spec):
    """Drops documents that contain a passage of an evaluation set, as `contaminated` (Brown et al. 2020,
    arXiv:2005.14165, appendix C), because they would raise a model's scores on that set.

    Texts are compared by words, ignoring case and punctuation; in scripts without spaces, 1.6 characters count as a
    word. The passages found are listed in rejects/contamination.jsonl.
    """

    against: Annotated[tuple[DocumentFiles, ...], Field(min_length=1)]
    """Evaluation sets. `text_columns` names the columns whose text a model must not have read, such as question and
    answer."""
    ngram_words: Annotated[int, Field(ge=5, le=100)] = 13
    """Length of the passage that a document and an evaluation row must share, in words."""
    min_words: Annotated[int, Field(ge=3)] = 8
    """Evaluation rows with fewer words than this are not looked for. Those with at least so many, but fewer than
    `ngram_words`, are looked for as a whole."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [one.name for one in self.against]
        if len(set(names)) < len(names):
            raise ValueError("two evaluation sets have the same name")
        return self


class PerplexityLimits(Spec):
    """Limits on the perplexity of documents under a model; null sets no limit."""

    min_perplexity: Annotated[float, Field(ge=1)] | None = None
    """Documents of lower perplexity are dropped, as `perplexity_too_low`: boilerplate, lists, repetition."""
    max_perplexity: Annotated[float, Field(ge=1)] | None = None
    """Documents of higher perplexity are dropped, as `perplexity_too_high`: no sentences of the model's languages."""
    min_percentile: Annotated[float, Field(ge=0, lt=100)] | None = None
    """Sets `min_perplexity` to this percentile of the domain's documents."""
    max_percentile: Annotated[float, Field(gt=0, le=100)] | None = None
    """As `max_perplexity`, at the perplexity below which so many per cent of the domain's documents lie."""


class PerplexityFilter(Spec):
    """Limits on the perplexity of documents under a causal model, applied after deduplication (Wenzek et al. 2020,
    CCNet, arXiv:1911.00359; Marion et al. 2023, arXiv:2309.04564, who keep the middle of the distribution)."""

    model: ModelRef
    """The causal model that judges the documents."""
    limits: PerplexityLimits
    """Limits for every domain that `domain_limits` does not name."""
    domain_limits: dict[Name, PerplexityLimits] = Field(default_factory=dict)
    """Limits of single domains, instead of `limits`."""
    max_tokens: Annotated[int, Field(ge=8)] = 512
    """Of a longer document only so many tokens from its beginning are judged."""
    micro_batch_sequences: Annotated[int, Field(ge=1)] = 8
    """Documents that one worker computes at once."""
    num_workers: Annotated[int, Field(ge=1), "unfingerprinted"] = 1
    """Workers that compute perplexities side by side, each with the model loaded."""
    cpus_per_worker: Annotated[int, Field(ge=1), "unfingerprinted"] = 1
    """CPUs that each worker uses."""
    gpus_per_worker: Annotated[int, Field(ge=0), "unfingerprinted"] = 0
    """GPUs that each worker uses; 0 computes on the CPU."""

    def limits_of(self, domain: str) -> PerplexityLimits:
        return self.domain_limits.get(domain, self.limits)


class CleanSpec(JobSpec):
    """Cleans, deduplicates and splits documents into a tokenised corpus in shards, or a data set of rows."""

    kind: Literal["clean"]
    sources: Annotated[tuple[TextSource, ...], Field(min_length=1)]
    """Data sets and files whose documents are cleaned, each with a name and a domain."""
    normalisation: Normalisation = Normalisation()
    """How text is normalised in every domain that `domain_normalisation` does not name."""
    rules: Rules = Rules()
    """Quality rules for every domain that `domain_rules` does not name."""
    domain_rules: dict[Name, Rules] = Field(default_factory=dict)
    """Rules of single domains, instead of `rules`."""
    domain_normalisation: dict[Name, Normalisation] = Field(default_factory=dict)
    """Normalisation of single domains, instead of `normalisation`."""
    deduplication: Deduplication | None = Deduplication()
    """How duplicates are found and dropped; null keeps them."""
    decontamination: Decontamination | None = None
    """Evaluation sets whose passages must not stand in the result. Default: none is looked for."""
    perplexity: PerplexityFilter | None = None
    """Drop documents by a model's perplexity. Default: no document is judged by a model."""
    output: Annotated[TokensOutput | RowsOutput, Field(discriminator="type")]
    """What is made: packed tokens for language modelling, or rows split for a task."""
    max_bad_rows_share: Share = 0.01
    """Rows that cannot be read are quarantined and counted; the job fails if their share is larger."""
    max_row_bytes: Annotated[int, Field(ge=1024)] = 16 << 20
    """Rows that are longer are quarantined."""
    sample_rows_per_reason: Annotated[int, Field(ge=0)] = 5
    """Documents of each reason, kept ones included, that the report shows."""
    chunk_bytes: Annotated[int, Field(ge=1 << 16), "unfingerprinted"] = 4 << 20
    """Bytes of text that one task processes at once. It changes speed and memory, never the result."""

    def bundles(self) -> list[Bundle]:
        """The workers that compute perplexities; other passes run on the CPUs that there are."""
        judge = self.perplexity
        return [] if judge is None else [Bundle(judge.cpus_per_worker, judge.gpus_per_worker)] * judge.num_workers

    @property
    def takes_all_cpus(self) -> bool:
        return True

    def rules_of(self, domain: str) -> Rules:
        return self.domain_rules.get(domain, self.rules)

    def normalisation_of(self, domain: str) -> Normalisation:
        return self.domain_normalisation.get(domain, self.normalisation)

    def outside_files(self) -> Iterator[OutsideFiles]:
        yield from files_at_uris("sources", self.sources)
        if self.decontamination is not None:
            yield from files_at_uris("decontamination.against", self.decontamination.against)

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
        by_perplexity = self.perplexity.domain_limits if self.perplexity else {}
        unknown = sorted({*self.domain_rules, *self.domain_normalisation, *by_perplexity} - domains)
        if unknown:
            raise ValueError(f"no source has the domain {', '.join(unknown)}; there are: {', '.join(sorted(domains))}")
        return self

    @model_validator(mode="after")
    def _sources_fit_the_output(self) -> Self:
        labelled = {source.name: source.is_labelled for source in self.sources}
        if isinstance(self.output, TokensOutput):
            if any(labelled.values()):
                raise ValueError("labels need output.type rows: a corpus of tokens has none")
        elif any(source.weight != 1 or source.max_tokens is not None for source in self.sources):
            raise ValueError("weight and max_tokens of a source need output.type tokens: rows are not mixed by tokens")
        elif len(set(labelled.values())) > 1:
            without = ", ".join(name for name, has_label in labelled.items() if not has_label)
            raise ValueError(f"the rows of {without} have no label, but those of the other sources have one")
        return self

    @model_validator(mode="after")
    def _domain_shares_can_be_met(self) -> Self:
        if not isinstance(self.output, TokensOutput):
            return self
        shares, domains = self.output.mixture.max_domain_share, {source.domain for source in self.sources}
        if unknown := sorted(set(shares) - domains):
            raise ValueError(f"no source has the domain {', '.join(unknown)}; there are: {', '.join(sorted(domains))}")
        if domains == set(shares) and sum(shares.values()) < 1:
            raise ValueError("max_domain_share limits every domain, and the shares add up to less than 1")
        return self
