"""Records of a run in the artifact: counts, rejected rows, unreadable rows and samples for people to read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rayloom.data.kept_documents import JudgedCorpus
from rayloom.data.passes import Passes
from rayloom.data.reject_files import Written, gather
from rayloom.data.row_counts import RowCounts, by_part, noted
from rayloom.data.rules import registry
from rayloom.errors import InputError, QualityError
from rayloom.specs.base import Content
from rayloom.specs.clean import CleanSpec
from rayloom.specs.cleaning.output import RowsOutput, TokensOutput


def check_readable(spec: CleanSpec, tally: RowCounts, first_bad: Sequence[str]) -> None:
    """Raises InputError if more rows could not be read than the spec allows."""
    bad, good = tally.bad_rows.total(), tally.rows_in.total()
    if bad > spec.max_bad_rows_share * (bad + good):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in by_part(tally.bad_rows, 1).items())
        what = f"{bad:,} of {bad + good:,} rows cannot be read ({reasons}), more than max_bad_rows_share"
        fix = "Mend the files or the source's format and columns, or raise max_bad_rows_share."
        raise InputError(what, where=first_bad[0], fix=fix)


def check_not_empty(tally: RowCounts, num_kept: int) -> None:
    """Raises QualityError if no document is left."""
    if not num_kept:
        reasons = list(by_part(tally.dropped, 1).items())[:4]
        counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons) or "there were no rows"
        what = f"No document is left of {tally.rows_in.total():,}: {counts}"
        fix = "Change the rules that drop them (rules, domain_rules), or name other sources."
        raise QualityError(what, fix=fix)


def check_both_splits(spec: CleanSpec, num_documents: dict[str, int]) -> None:
    """Raises QualityError if training or held-out documents are missing."""
    assert isinstance(spec.output, TokensOutput)
    for split, count in num_documents.items():
        if not count:
            total = sum(num_documents.values())
            share = spec.output.heldout_share
            what = f"None of the {total:,} documents fell into the {split} part (heldout_share {share})"
            raise QualityError(what, fix="Raise heldout_share, or clean a larger corpus.")


def check_parts(spec: CleanSpec, num_rows: dict[str, int]) -> None:
    """Raises QualityError if a split with a share above 0 has no row."""
    assert isinstance(spec.output, RowsOutput)
    shares = {"train": 1.0, "validation": spec.output.validation_share, "test": spec.output.test_share}
    for part, count in num_rows.items():
        if not count and shares[part]:
            what = f"None of the {sum(num_rows.values()):,} rows fell into the {part} part"
            raise QualityError(what, fix="Raise its share, set it to 0, or clean a larger set.")


def added(tally: RowCounts, records: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Sums of the records' counts by `source/part/unit`. Also adds the documents that the pass dropped to `tally`."""
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(record["counts"])
        tally.dropped.update(record.get("dropped", {}))
        tally.shortened.update(record.get("shortened", {}))
    return counts


def content(spec: CleanSpec) -> Content:
    return "corpus" if isinstance(spec.output, TokensOutput) else "dataset"


def metrics(spec: CleanSpec, tally: RowCounts, found: dict[str, int], counts: Counter[str]) -> dict[str, Any]:
    """All counts of the run, for manifest and report. `counts`: by `source/part/unit`."""
    sources = {source.name: _source_metrics(source.name, tally, counts, _units(spec)) for source in spec.sources}
    domains: dict[str, Counter[str]] = {}
    for source in spec.sources:
        numbers = {name: value for name, value in sources[source.name].items() if isinstance(value, int)}
        domains.setdefault(source.domain, Counter()).update(numbers)
    duplicates = {f"{kind}_duplicate": found.get(f"{kind}_duplicates", 0) for kind in ("exact", "near")}
    dropped = by_part(tally.dropped, 1) | {reason: count for reason, count in duplicates.items() if count}
    sums = {unit: sum(one[unit] for one in sources.values()) for unit in _units(spec)}
    return {
        "rows_in": tally.rows_in.total(),
        "bad_rows": tally.bad_rows.total(),
        "documents_kept": sums.pop("documents"),
        "documents_dropped": sum(dropped.values()),
        **sums,
        "dropped": dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0]))),
        "bad": by_part(tally.bad_rows, 1),
        "duplicates": found,
        "sources": sources,
        "domains": {domain: dict(numbers) for domain, numbers in domains.items()},
        **{family.notes: noted(tally.notes, family.notes) for family in registry.RULES if family.notes},
        "lengths": dict(sorted(tally.lengths.items())),
    }


def _units(spec: CleanSpec) -> dict[str, tuple[str, ...]]:
    """The totals kept for each source, each with the `part/unit` counters that it sums."""
    if isinstance(spec.output, TokensOutput):
        both = {unit: (f"train/{unit}", f"heldout/{unit}") for unit in ("documents", "tokens", "bytes")}
        return both | {f"heldout_{unit}": (f"heldout/{unit}",) for unit in ("documents", "tokens")}
    parts = ("train", "validation", "test")
    together = {unit: tuple(f"{part}/{unit}" for part in parts) for unit in ("documents", "bytes")}
    return together | {f"{part}_rows": (f"{part}/documents",) for part in parts}


def _source_metrics(
    name: str, tally: RowCounts, counts: Counter[str], units: Mapping[str, tuple[str, ...]]
) -> dict[str, Any]:
    mine = {key.removeprefix(f"{name}/"): count for key, count in tally.dropped.items() if key.startswith(f"{name}/")}
    return {
        "rows_in": tally.rows_in[name],
        "bad_rows": sum(count for key, count in tally.bad_rows.items() if key.startswith(f"{name}/")),
        "passed_rules": tally.kept[name],
        "shortened": tally.shortened[name],
        **{unit: sum(counts[f"{name}/{part}"] for part in parts) for unit, parts in units.items()},
        "dropped": dict(sorted(mine.items(), key=lambda item: (-item[1], item[0]))),
    }


def publish(
    judged: JudgedCorpus,
    target: Path,
    passes: Passes,
    written: Written,
    counts: Counter[str],
    stored: list[dict[str, Any]],
) -> dict[str, Any]:
    """Writes rejects, unreadable rows, samples and counts into the artifact; returns the counts, and all of `stored`.

    `written`: what the passes wrote, the judging pass first. `stored`: entries of files that are in the bucket.
    """
    if judged.num_unlikely is not None:
        written = {**written, "sifted": {"rejects": judged.sifted_bytes}}
    gathered = gather(judged, passes, written)
    save(target / "samples.json", gathered["samples"])
    numbers = metrics(judged.spec, judged.tally, judged.duplicate_counts, counts)
    save(target / "corpus.json", numbers)
    hits = gathered.get("hits", {})
    if hits:
        numbers["hits"] = {name: {"rows_hit": len(set(one["rows"])), "hits": one["hits"]} for name, one in hits.items()}
    return numbers | {"stored": [*stored, *gathered["stored"]]}


def save(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def lines(numbers: dict[str, Any]) -> list[str]:
    """The main counts as lines of text for the terminal."""
    bad = f", {numbers['bad_rows']:,} unreadable" if numbers["bad_rows"] else ""
    kept, dropped = numbers["documents_kept"], numbers["documents_dropped"]
    first = f"rows in {numbers['rows_in']:,}{bad}; documents kept {kept:,}, dropped {dropped:,}"
    reasons = [f"  {reason:<40} {count:>12,}" for reason, count in numbers["dropped"].items()]
    unit = "tokens" if "tokens" in numbers else "documents"
    domains = [f"  {name:<40} {one[unit]:>12,} {unit}" for name, one in numbers["domains"].items()]
    trained = numbers.get("labels", {}).get("train", {})
    labels = [f"  {label:<40} {count:>12,} rows to train" for label, count in trained.items()]
    return [first, "dropped by reason", *reasons, f"{unit} by domain", *domains, *labels]


def headline(numbers: dict[str, Any]) -> str:
    kept = f"{numbers['documents_kept']:,} of {numbers['rows_in']:,} documents kept"
    if "tokens" in numbers:
        return f"{kept}, {numbers['tokens']:,} tokens ({numbers['heldout_tokens']:,} held out)"
    rows = ", ".join(f"{numbers[f'{part}_rows']:,} {part}" for part in ("train", "validation", "test"))
    made = sum(numbers.get("augmented_rows", {}).values())
    rows += f", {made:,} more to train made of them" if made else ""
    doubt = numbers.get("likely_wrong_labels", 0)
    return f"{kept}: {rows}" + (f"; {doubt:,} groups with labels to check" if doubt else "")
