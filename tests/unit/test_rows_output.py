"""`output: rows` from files to files: labels, exact shares, balance, doubtful labels, kept columns; without Ray."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.passes import cleaned

from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError, QualityError, SpecError

WORDS = ["harbour", "river", "boat", "lamp", "street", "garden", "market", "winter", "letter", "bridge", "teacher"]


def _text(seed: int, num_words: int = 30) -> str:
    words = [f"{WORDS[(seed * 7 + n * n) % 11]}{(seed * 31 + n) % 997}" for n in range(num_words)]
    return " ".join(words) + f" number {seed}"


def _job(**changes: Any) -> dict[str, Any]:
    source = {
        "name": "reviews",
        "dataset": "./rows",
        "format": {
            "type": "jsonl",
            "text_columns": ["body"],
            "label_column": "stars",
            "keep_columns": ["id", "author"],
        },
        "domain": "reviews",
    }
    rules = {"gopher": None, "repetition": None, "sensitive": {}}
    return {"sources": [source], "rules": rules, "output": {"type": "rows"}} | changes


def _rows(num_good: int = 300, num_bad: int = 100) -> list[dict[str, Any]]:
    rows = [{"body": _text(n), "stars": 5, "id": n, "author": f"me{n}@example.com"} for n in range(num_good)]
    return rows + [{"body": _text(10_000 + n), "stars": 1, "id": 1000 + n} for n in range(num_bad)]


def _write(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "rows").mkdir(exist_ok=True)
    (folder / "rows" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _part(artifact: Artifact, part: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact.path / f"{part}.jsonl").read_text().splitlines()]


def test_every_label_has_its_share_of_every_part_and_no_row_is_lost(tmp_path: Path) -> None:
    _write(tmp_path, _rows())
    found = cleaned(tmp_path, _job())
    parts = {part: _part(found, part) for part in ("train", "validation", "test")}
    counted = {part: Counter(row["label"] for row in rows) for part, rows in parts.items()}
    assert counted == {
        "train": Counter({"5": 240, "1": 80}), "validation": Counter({"5": 30, "1": 10}),
        "test": Counter({"5": 30, "1": 10}),
    }  # fmt: skip
    ids = [row["id"] for rows in parts.values() for row in rows]
    assert sorted(ids) == [*range(300), *range(1000, 1100)]
    assert found.manifest.content == "dataset"
    assert found.manifest.metrics["labels"]["test"] == {"1": 10, "5": 30}
    assert "320 train, 40 validation, 40 test" in found.manifest.headline


def test_the_result_does_not_depend_on_how_the_rows_were_cut(tmp_path: Path) -> None:
    _write(tmp_path, _rows())
    output = {"type": "rows", "max_label_ratio": 1.5}
    first, second = (cleaned(tmp_path, _job(output=output), size) for size in (1 << 20, 1 << 16))
    assert first.manifest.digest == second.manifest.digest


def test_kept_columns_are_masked_like_the_text_and_may_be_missing(tmp_path: Path) -> None:
    _write(tmp_path, _rows())
    rows = {row["id"]: row for row in _part(cleaned(tmp_path, _job()), "train")}
    assert next(row for number, row in rows.items() if number < 300)["author"] == "[EMAIL]"
    assert all("author" not in row for number, row in rows.items() if number >= 1000)


def test_labels_are_balanced_in_training_only(tmp_path: Path) -> None:
    _write(tmp_path, _rows())
    found = cleaned(tmp_path, _job(output={"type": "rows", "max_label_ratio": 1.5, "test_share": 0.2}))
    numbers = found.manifest.metrics
    assert numbers["labels"]["train"] == {"1": 70, "5": 105}
    assert numbers["labels"]["test"] == {"1": 20, "5": 60}
    assert numbers["dropped"] == {"over_represented_label": 210 - 105}
    assert numbers["rows_in"] == numbers["documents_kept"] + numbers["documents_dropped"]


def test_another_seed_keeps_other_rows_of_a_label_with_too_many_but_the_same_parts(tmp_path: Path) -> None:
    _write(tmp_path, _rows())
    found = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        _write(tmp_path / str(seed), _rows())
        output = {"type": "rows", "max_label_ratio": 1, "seed": seed}
        found.append(cleaned(tmp_path / str(seed), _job(output=output)))
    assert _part(found[0], "test") == _part(found[1], "test")
    first, second = ({row["id"] for row in _part(one, "train")} for one in found)
    assert first != second and len(first) == len(second)


def _doubtful_rows() -> list[dict[str, Any]]:
    rows = _rows(200, 100)
    rows += [{"body": _text(7).upper(), "stars": 1, "id": 2000}]
    rows += [{"body": _text(10_003), "stars": 1, "id": 2001}]  # the same label: no doubt
    rows += [{"body": _text(9, 120) + end, "stars": label, "id": 2002} for end, label in ((" a", 5), (" b", 2))]
    return rows


@pytest.mark.parametrize("action", ["keep", "drop"])
def test_duplicates_with_different_labels_are_listed(tmp_path: Path, action: str) -> None:
    _write(tmp_path, _doubtful_rows())
    found = cleaned(tmp_path, _job(output={"type": "rows", "conflicting_labels": action}))
    lines = (found.path / "review" / "likely_wrong_labels.jsonl").read_text().splitlines()
    listed = [(row["group"], row["row"], row["label"]) for row in map(json.loads, lines)]
    assert listed == [(1, 8, "5"), (1, 301, "1"), (2, 303, "5"), (2, 304, "2")]
    numbers = found.manifest.metrics
    assert numbers["likely_wrong_labels"] == 2
    assert (numbers["dropped"]["exact_duplicate"], numbers["dropped"]["near_duplicate"]) == (2, 1)
    assert numbers["dropped"].get("conflicting_labels", 0) == 2 * (action == "drop")
    kept = {row["id"] for part in ("train", "validation", "test") for row in _part(found, part)}
    assert (7 in kept) == (action == "keep") and 2000 not in kept


def test_identical_texts_never_stand_on_both_sides_where_duplicates_stay(tmp_path: Path) -> None:
    rows = _rows(60, 40)
    copies = [row | {"body": row["body"].upper(), "id": row["id"] + 5000} for row in rows]
    _write(tmp_path, rows + copies)
    found = cleaned(tmp_path, _job(deduplication=None))
    part_of = {row["id"]: part for part in ("train", "validation", "test") for row in _part(found, part)}
    assert len(part_of) == 200
    assert all(part_of[row["id"]] == part_of[row["id"] + 5000] for row in rows)


def test_rows_without_labels_and_a_label_for_a_whole_source(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for name, first in (("good", 0), ("bad", 500)):
        (tmp_path / "rows" / f"{name}.txt").write_text("\n".join(_text(first + n) for n in range(50)))
    text = {"type": "text", "documents": "line"}
    sources = [
        {"name": name, "dataset": "./rows", "files": f"{name}.txt", "format": text, "domain": "d", "label": name}
        for name in ("good", "bad")
    ]
    found = cleaned(tmp_path, _job(sources=sources))
    assert found.manifest.metrics["labels"]["train"] == {"bad": 40, "good": 40}
    plain = [source | {"label": None} for source in sources]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "rows").symlink_to(tmp_path / "rows")
    unlabelled = cleaned(tmp_path / "plain", _job(sources=plain))
    assert len(_part(unlabelled, "train")) == 80 and set(_part(unlabelled, "train")[0]) == {"text"}
    assert "labels" not in unlabelled.manifest.metrics


def test_report_of_rows(tmp_path: Path) -> None:
    from rayloom.data.report import sections

    _write(tmp_path, _doubtful_rows())
    shown = {section.title: section.body for section in sections(cleaned(tmp_path, _job()))}
    assert "validation" in shown["Labels"] and "Labels to check" in shown
    assert shown["Labels to check"].count("row 301") == 1


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_row_without_a_label_is_quarantined(tmp_path: Path) -> None:
    rows = [*_rows(100, 100), {"body": "x", "stars": None}, {"body": "x", "stars": [1]}, {"body": "x"}]
    _write(tmp_path, rows)
    found = cleaned(tmp_path, _job(max_bad_rows_share=0.05))
    assert found.manifest.metrics["bad"] == {"missing_column": 1, "no_label": 1, "not_a_label": 1}


def test_a_column_that_is_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayloom.data.labelled.row_output.MAX_LABELS", 1)
    _write(tmp_path, _rows(20, 20))
    with pytest.raises(InputError, match="There are 2 different labels, such as '1' and '5'"):
        cleaned(tmp_path, _job())


def test_an_empty_part(tmp_path: Path) -> None:
    _write(tmp_path, _rows(2, 2))
    with pytest.raises(QualityError, match="None of the 4 rows fell into the validation part"):
        cleaned(tmp_path, _job())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output": {"type": "tokens", "tokenizer": {"type": "train"}}}, "labels need output.type rows"),
        ({"sources.0.label": "x"}, "has both a label for all rows and a label_column"),
        ({"sources.0.weight": 2}, "need output.type tokens"),
        ({"sources.0.format.keep_columns": ["text"]}, "cannot be named text"),
    ],
)
def test_specs_that_contradict_themselves(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    job = _job()
    for path, value in change.items():
        place: Any = job
        *front, last = path.split(".")
        for name in front:
            place = place[int(name)] if name.isdigit() else place[name]
        place[last] = value
    with pytest.raises(SpecError, match=said):
        cleaned(tmp_path, job)
