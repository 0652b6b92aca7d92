"""The plan of a cleaning job, from the names and sizes of the files only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rayloom.artifacts.store import Artifact
from rayloom.data.rules.registry import active
from rayloom.data.sources.source_files import input_files, reading_jobs
from rayloom.errors import InputError
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.clean import CleanSpec, Deduplication
from rayloom.specs.cleaning.output import RowsOutput, TokensOutput, TrainTokenizer

MAX_SCRATCH_RATIO = 3.0
"""Scratch space for each byte of input: the normalised text, keys (17 of 32 bytes a document), tokens, rejects."""


def plan(spec: CleanSpec, parents: Mapping[str, Artifact], job_directory: Path) -> PlanSheet:  # noqa: ARG001
    """Files, bytes, rules and deduplication; a pattern that matches no file is a problem."""
    sheet = PlanSheet()
    try:
        files = input_files(spec, parents)
    except InputError as error:
        sheet.problems.append(str(error))
        return sheet
    for index, source in enumerate(spec.sources):
        mine = [file for file in files if file.source == index]
        size = sum(file.size_bytes for file in mine)
        limit = f", first {source.limit_documents:,} documents" if source.limit_documents else ""
        sheet.add(source.name, f"{len(mine):,} files, {size:,} bytes, {source.format.type}, {source.domain}{limit}")
    total = sum(file.size_bytes for file in files)
    sheet.add("bytes in all", total)
    sheet.add("files read side by side", len(reading_jobs(spec, files)))
    sheet.add("scratch space at most", f"{int(total * MAX_SCRATCH_RATIO):,} bytes (removed when the job is done)")
    for domain in sorted({source.domain for source in spec.sources}):
        sheet.add(f"rules for {domain}", ", ".join(family.name for family, _ in active(spec.rules_of(domain))))
    sheet.add("duplicates", _duplicates(spec.deduplication))
    if spec.perplexity is not None:
        sheet.add("perplexity", f"judged by {spec.perplexity.model}, first {spec.perplexity.max_tokens:,} tokens each")
    if spec.decontamination is not None:
        names = ", ".join(one.name for one in spec.decontamination.against)
        sheet.add("evaluation sets kept out", f"{names} (passages of {spec.decontamination.ngram_words} words)")
    if isinstance(spec.output, TokensOutput):
        _add_tokens(sheet, spec.output)
    else:
        _add_rows(sheet, spec.output)
    return sheet


def _add_tokens(sheet: PlanSheet, output: TokensOutput) -> None:
    tokenizer, mixture = output.tokenizer, output.mixture
    if isinstance(tokenizer, TrainTokenizer):
        sheet.add("tokenizer", f"trained, {tokenizer.vocabulary_size:,} tokens")
    else:
        sheet.add("tokenizer", f"that of {tokenizer.model}")
    sheet.add("held out", f"{output.heldout_share:.1%} of the documents")
    if mixture.total_tokens is not None:
        sheet.add("tokens at most", mixture.total_tokens)
    for domain, share in mixture.max_domain_share.items():
        sheet.add(f"{domain} at most", f"{share:.1%} of the tokens")


def _add_rows(sheet: PlanSheet, output: RowsOutput) -> None:
    sheet.add("parts", f"{output.validation_share:.1%} validation, {output.test_share:.1%} test, the rest training")
    if output.augmentation is not None:
        methods = ", ".join(method.type for method in output.augmentation.methods)
        sheet.add("more training rows", f"{output.augmentation.copies_per_row} for each, by {methods}")
    if output.max_label_ratio is not None:
        sheet.add("rows of a label", f"at most {output.max_label_ratio:g} times those of the rarest, in training")


def _duplicates(spec: Deduplication | None) -> str:
    if spec is None:
        return "kept"
    if not spec.near_duplicates:
        return "exact ones removed"
    bands, rows, threshold = spec.num_bands, spec.rows_per_band, spec.similarity_threshold
    probability = 1 - (1 - threshold**rows) ** bands
    return (
        f"removed from similarity {threshold} on; a pair of that similarity is found with probability {probability:.4f}"
    )
