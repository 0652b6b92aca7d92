"""What the artifact and the person get to know: every count, the rejects, the quarantine, and documents to read."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayloom.data.tally import Tally, by_part
from rayloom.errors import InputError, QualityError
from rayloom.specs.clean import CleanSpec


def check_readable(spec: CleanSpec, tally: Tally, first_bad: Sequence[str]) -> None:
    """Raises InputError where more rows could not be read than the spec allows."""
    bad, good = tally.bad_rows.total(), tally.rows_in.total()
    if bad > spec.max_bad_rows_share * (bad + good):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in by_part(tally.bad_rows, 1).items())
        what = f"{bad:,} of {bad + good:,} rows cannot be read ({reasons}), more than max_bad_rows_share"
        fix = "Mend the files or the source's format and columns, or raise max_bad_rows_share."
        raise InputError(what, where=first_bad[0], fix=fix)


def check_not_empty(tally: Tally, num_kept: int) -> None:
    """Raises QualityError where no document is left."""
    if not num_kept:
        reasons = list(by_part(tally.dropped, 1).items())[:4]
        said = ", ".join(f"{count:,} {reason}" for reason, count in reasons) or "there were no rows"
        what = f"No document is left of {tally.rows_in.total():,}: {said}"
        fix = "Change the rules that drop them (rules, domain_rules), or name other sources."
        raise QualityError(what, fix=fix)


def check_both_splits(spec: CleanSpec, num_documents: dict[str, int]) -> None:
    """Raises QualityError where training or held-out documents are missing."""
    for split, count in num_documents.items():
        if not count:
            total = sum(num_documents.values())
            share = spec.output.heldout_share
            what = f"None of the {total:,} documents fell into the {split} part (heldout_share {share})"
            raise QualityError(what, fix="Raise heldout_share, or clean a larger corpus.")


def metrics(spec: CleanSpec, tally: Tally, found: dict[str, int], tokens: Counter[str]) -> dict[str, Any]:
    """Every number of the run, for manifest and report."""
    sources = {source.name: _source_metrics(source.name, tally, tokens) for source in spec.sources}
    domains: dict[str, Counter[str]] = {}
    for source in spec.sources:
        numbers = {name: value for name, value in sources[source.name].items() if isinstance(value, int)}
        domains.setdefault(source.domain, Counter()).update(numbers)
    duplicates = {f"{kind}_duplicate": found.get(f"{kind}_duplicates", 0) for kind in ("exact", "near")}
    dropped = by_part(tally.dropped, 1) | {reason: count for reason, count in duplicates.items() if count}
    total = sum(sources_of["documents"] for sources_of in sources.values())
    return {
        "rows_in": tally.rows_in.total(),
        "bad_rows": tally.bad_rows.total(),
        "documents_kept": total,
        "documents_dropped": sum(dropped.values()),
        "tokens": sum(one["tokens"] for one in sources.values()),
        "heldout_tokens": sum(one["heldout_tokens"] for one in sources.values()),
        "dropped": dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0]))),
        "bad": by_part(tally.bad_rows, 1),
        "duplicates": found,
        "sources": sources,
        "domains": {domain: dict(numbers) for domain, numbers in domains.items()},
        "masked": by_part(tally.masked, 1),
        "languages": by_part(tally.languages, 1),
        "lengths": dict(sorted(tally.lengths.items())),
    }


def _source_metrics(name: str, tally: Tally, tokens: Counter[str]) -> dict[str, Any]:
    mine = {key.removeprefix(f"{name}/"): count for key, count in tally.dropped.items() if key.startswith(f"{name}/")}
    counted = {
        unit: tokens[f"{name}/train/{unit}"] + tokens[f"{name}/heldout/{unit}"]
        for unit in ("documents", "tokens", "bytes")
    }
    return {
        "rows_in": tally.rows_in[name],
        "bad_rows": sum(count for key, count in tally.bad_rows.items() if key.startswith(f"{name}/")),
        "passed_rules": tally.kept[name],
        "shortened": tally.shortened[name],
        **counted,
        "heldout_documents": tokens[f"{name}/heldout/documents"],
        "heldout_tokens": tokens[f"{name}/heldout/tokens"],
        "dropped": dict(sorted(mine.items(), key=lambda item: (-item[1], item[0]))),
    }


# -- rows to read ------------------------------------------------------------------------------------------------------


def gather(folder: Path, chunks: Sequence[str], ending: str, target: Path) -> None:
    """Joins the chunks' JSON lines into one file; none where no chunk has any."""
    parts = [place for chunk in chunks if (place := folder / f"{chunk}.{ending}").exists()]
    if not parts:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole, 1 << 20)


def save(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def lines(numbers: dict[str, Any]) -> list[str]:
    """The numbers for the person who runs the job."""
    bad = f", {numbers['bad_rows']:,} unreadable" if numbers["bad_rows"] else ""
    kept, dropped = numbers["documents_kept"], numbers["documents_dropped"]
    first = f"rows in {numbers['rows_in']:,}{bad}; documents kept {kept:,}, dropped {dropped:,}"
    reasons = [f"  {reason:<40} {count:>12,}" for reason, count in numbers["dropped"].items()]
    domains = [f"  {name:<40} {one['tokens']:>12,} tokens" for name, one in numbers["domains"].items()]
    return [first, "dropped by reason", *reasons, "tokens by domain", *domains]


def headline(numbers: dict[str, Any]) -> str:
    return (
        f"{numbers['documents_kept']:,} of {numbers['rows_in']:,} documents kept, {numbers['tokens']:,} tokens "
        f"({numbers['heldout_tokens']:,} held out)"
    )
