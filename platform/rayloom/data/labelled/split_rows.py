"""`output: rows`: a stratified split into train, validation and test, and balancing of the training labels.

A part is a range of the hash of the folded text, so identical texts are never in two parts; of near duplicates only one
is kept. The ranges are cut by label, so that each label has its share in each part, exact to one row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rayloom.artifacts.store import Artifact
from rayloom.data.exchange.cutoff import EVERYTHING, RANKING, Ranking, is_below, ranked, send_ranked, shuffled
from rayloom.data.exchange.judged_documents import as_lines
from rayloom.data.exchange.mail import Mail
from rayloom.data.filter_pass import EXCERPT_CHARACTERS
from rayloom.data.kept_documents import JudgedCorpus, duplicate_rejects, origin_of
from rayloom.data.labelled.augmentation import Augmenter
from rayloom.data.labelled.wrong_labels import MEMBER, LabelsPass, doubtful_of
from rayloom.data.passes import Passes, TaskCounts
from rayloom.data.row_counts import chosen
from rayloom.specs.cleaning.output import RowsOutput

Part = Literal["train", "validation", "test"]
ROWS_AT_ONCE = 1024
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class RowsPass:
    """Inputs of every task of these passes."""

    judged: JudgedCorpus
    labels: tuple[str, ...]
    """All labels, sorted; one empty label if rows have none."""
    synonyms: Mapping[int, Artifact] = field(default_factory=dict)
    """The synonyms of each augmentation method that has some, by the method's index."""

    @property
    def output(self) -> RowsOutput:
        assert isinstance(self.judged.spec.output, RowsOutput)
        return self.judged.spec.output

    @property
    def doubt(self) -> LabelsPass | None:
        """Inputs of the search for conflicting labels; None if labels cannot conflict."""
        duplicates = self.judged.duplicates
        return (
            LabelsPass(duplicates, self.labels, len(self.judged.chunks.groups))
            if duplicates is not None and len(self.labels) > 1
            else None
        )

    def doubtful(self, chunk: int) -> NDArray[Any]:
        """The chunk's documents whose cluster has several labels, by id; none if labels cannot conflict."""
        if self.doubt is None:
            return np.zeros(0, MEMBER)
        found, chunks = doubtful_of(self.doubt, self.judged.chunks.group_of(chunk)), self.judged.chunks
        return found[slice(*np.searchsorted(found["id"], np.asarray(chunks.id_range(chunk), np.uint64)))]

    def number_of(self, labels: list[str]) -> NDArray[np.int64]:
        places = {label: place for place, label in enumerate(self.labels)}
        return np.asarray([places[label] for label in labels], np.int64)


@dataclass(frozen=True)
class PartCuts:
    """Upper bounds of each label's hashes in test and in validation; hashes above both are training rows."""

    test: tuple[int, ...]
    validation: tuple[int, ...]
    balanced: tuple[int, ...]
    """By label, the position in the shuffled order below which training rows are kept."""

    def part(self, label: int, split_hash: int) -> Part:
        if split_hash < self.test[label]:
            return "test"
        return "validation" if split_hash < self.validation[label] else "train"


def staying(given: RowsPass, chunk: int) -> Iterator[dict[str, Any]]:
    """Batches of the chunk's documents that are not removed, as duplicates or (if the job says so) for their label."""
    removed = given.judged.removed_ids(chunk)
    if given.doubt is not None and given.output.conflicting_labels == "drop":
        removed = np.concatenate([removed, given.doubtful(chunk)["id"]])
    for batch in given.judged.documents(chunk, ("label", "columns")):
        places = np.flatnonzero(~np.isin(batch["id"], removed))
        if len(places):
            yield {
                name: values[places] if isinstance(values, np.ndarray) else [values[place] for place in places]
                for name, values in batch.items()
            }


def part_cuts(given: RowsPass, passes: Passes) -> PartCuts:
    """The exact bounds of the parts, by label."""
    judged = given.judged

    def rank(chunk: int, mail: Mail) -> TaskCounts:
        for batch in staying(given, chunk):
            send_ranked(mail, ranked(batch["split_hash"], given.number_of(batch["label"]), 1), judged.num_buckets)
        return {}

    documents = judged.exchanged(passes, "ranking", rank, RANKING, judged.num_buckets)
    by_hash = Ranking(documents, len(given.labels), judged.num_buckets, passes)
    weights = by_hash.weights()
    sizes = [int(value) for value in weights.sum(axis=0)]
    first, second = given.output.test_share, given.output.test_share + given.output.validation_share
    wanted = [(label, int(share * size + 0.5)) for share in (first, second) for label, size in enumerate(sizes)]
    found = [cut.below for cut in by_hash.cuts(weights, wanted)]
    split = PartCuts(tuple(found[: len(sizes)]), tuple(found[len(sizes) :]), (EVERYTHING,) * len(sizes))
    if given.output.max_label_ratio is None:
        return split
    return PartCuts(split.test, split.validation, _balanced(given, split, given.output.max_label_ratio, passes))


def _balanced(given: RowsPass, split: PartCuts, max_ratio: float, passes: Passes) -> tuple[int, ...]:
    judged = given.judged

    def rank(chunk: int, mail: Mail) -> TaskCounts:
        for batch in staying(given, chunk):
            labels, hashes = given.number_of(batch["label"]), batch["split_hash"]
            pairs = zip(labels.tolist(), hashes.tolist(), strict=True)
            trained = np.asarray([split.part(*pair) == "train" for pair in pairs])
            records = ranked(shuffled(hashes[trained], given.output.seed), labels[trained], 1)
            send_ranked(mail, records, judged.num_buckets)
        return {}

    documents = judged.exchanged(passes, "ranking by label", rank, RANKING, judged.num_buckets)
    ranking = Ranking(documents, len(given.labels), judged.num_buckets, passes)
    weights = ranking.weights()
    limit = int(max_ratio * int(weights.sum(axis=0).min()))
    targets = [(label, limit) for label in range(len(given.labels))]
    return tuple(cut.below for cut in ranking.cuts(weights, targets))


# -- writing -----------------------------------------------------------------------------------------------------------


def write(given: RowsPass, where: PartCuts, chunk: int) -> dict[str, Any]:
    """Writes the chunk's rows by part, and the rejected rows with their reasons; returns counts."""
    place = f"rows/{given.judged.chunks.name(chunk)}"
    finished = given.judged.work.found_parts(place) if given.judged.is_resumed else None
    if finished is not None:
        return dict(json.loads(bytes(finished["record"])))
    rows: dict[Part, list[dict[str, Any]]] = {part: [] for part in PARTS}
    rejects = duplicate_rejects(given.judged, chunk)
    in_doubt, dropped = _doubtful_rows(given, chunk)
    rejects += dropped
    kept: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    augmented: Counter[str] = Counter()
    wanted = given.output.augmentation
    augmenter = (
        Augmenter(wanted, {number: words.path for number, words in given.synonyms.items()})
        if wanted is not None
        else None
    )
    for row, document, key, part, stays in _judged_rows(given, where, chunk):
        about = origin_of(given.judged, document)
        excerpt = {"text": row["text"][:EXCERPT_CHARACTERS]} | ({"label": row["label"]} if "label" in row else {})
        if not stays:
            rejects.append(about | {"reason": "over_represented_label"} | excerpt)
            continue
        rows[part].append(row)
        counts[f"{about['source']}/{part}/documents"] += 1
        counts[f"{about['source']}/{part}/bytes"] += len(row["text"].encode())
        if augmenter is not None and part == "train" and augmenter.wants(row.get("label", "")):
            copies = augmenter.copies(row["text"], key)
            made = [row | {"text": text, "augmented_from": about, "augmented_by": by} for text, by in copies]
            rows[part] += made
            augmented.update(one["augmented_by"] for one in made)
        if "label" in row:
            labels[f"{part}/{row['label']}"] += 1
        kept.append(about | {"reason": "kept"} | excerpt)
        if len(kept) == ROWS_AT_ONCE:
            kept = chosen(kept, given.judged.spec.sample_rows_per_reason)
    samples = chosen([*rejects, *kept], given.judged.spec.sample_rows_per_reason)
    lines: dict[str, bytes] = {part: as_lines(its_rows) for part, its_rows in rows.items()}
    lines |= {"rejects": as_lines(rejects), "doubt": as_lines(in_doubt), "samples": as_lines(samples)}
    further = Counter(row["source"] + "/" + row["reason"] for row in rejects if "duplicate" not in row["reason"])
    record: dict[str, Any] = {"counts": dict(counts), "labels": dict(labels), "dropped": dict(further)}
    record |= {"augmented": dict(augmented)}
    num_rows = {part: sum(n for key, n in counts.items() if key.endswith(f"/{part}/documents")) for part in PARTS}
    record |= {"documents": num_rows, "rejects_bytes": len(lines["rejects"])}
    given.judged.work.write_parts(place, {"record": json.dumps(record).encode(), **lines})
    return record


def _judged_rows(given: RowsPass, where: PartCuts, chunk: int) -> Iterator[tuple[dict[str, Any], int, int, Part, bool]]:
    """Each kept row as it is written, with document id, hash, part, and whether balancing keeps it."""
    for batch in staying(given, chunk):
        labels, hashes = given.number_of(batch["label"]), batch["split_hash"]
        orders = shuffled(hashes, given.output.seed)
        for index, label in enumerate(labels.tolist()):
            part = where.part(label, int(hashes[index]))
            fits = part != "train" or bool(is_below(orders[index : index + 1], where.balanced[label])[0])
            row = {"text": batch["text"][index]} | ({"label": batch["label"][index]} if batch["label"][index] else {})
            columns = json.loads(batch["columns"][index]) if batch["columns"][index] else {}
            yield row | columns, int(batch["id"][index]), int(hashes[index]), part, fits


def _doubtful_rows(given: RowsPass, chunk: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The chunk's rows with conflicting labels, to be reviewed; and those of them that are dropped for it."""
    if given.doubt is None:
        return [], []
    members = {int(row["id"]): row for row in given.doubtful(chunk)}
    removed = set(given.judged.removed_ids(chunk).tolist())
    found, dropped = [], []
    for batch in given.judged.documents(chunk, ("label",)) if members else ():
        for document, label, text in zip(batch["id"].tolist(), batch["label"], batch["text"], strict=True):
            if document not in members:
                continue
            about = origin_of(given.judged, document)
            row = about | {"label": label, "text": text[:EXCERPT_CHARACTERS]}
            found.append({"group": int(members[document]["cluster"])} | row)
            if given.output.conflicting_labels == "drop" and document not in removed:
                dropped.append(about | {"reason": "conflicting_labels"} | row)
    return found, dropped
