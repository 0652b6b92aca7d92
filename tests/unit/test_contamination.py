"""Passages of evaluation sets: found whatever marks and case stand between, and listed with their row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.passes import cleaned

from rayloom.data.rules.contamination import EvaluationFile, Passages, build
from rayloom.errors import InputError
from rayloom.specs.clean import Decontamination

QUESTION = "Which river flows through the old town of Heidelberg and joins the Rhine at Mannheim in the end?"
SHORT = "Name the capital of the kingdom of Bhutan please"
CHINESE = "海德堡老城旁边流过的那条河在曼海姆附近汇入莱茵河，它叫什么名字，请回答。"
ROWS = [
    {"q": QUESTION, "a": "the Neckar"},
    {"q": SHORT, "a": ""},
    {"q": "Too short?", "a": "yes"},
    {"q": CHINESE, "a": ""},
]


def _spec(**changes: Any) -> Decontamination:
    one = {"name": "quiz", "dataset": "./quiz", "format": {"type": "jsonl", "text_columns": ["q", "a"]}}
    return Decontamination.model_validate({"against": [one]} | changes)


def _passages(folder: Path, rows: list[dict[str, str]] = ROWS, **changes: Any) -> tuple[Passages, dict[str, Any]]:
    path = folder / "quiz.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "passages").mkdir(exist_ok=True)
    counts = build(_spec(**changes), [EvaluationFile(0, str(path), path.name)], folder / "passages")
    return Passages.load(folder / "passages"), counts["quiz"]


def test_what_a_set_has(tmp_path: Path) -> None:
    # 18 words and 2 of the answer: 8 passages of 13; the short one as a whole; 33 characters: 13 passages of 21.
    passages, counts = _passages(tmp_path)
    assert counts == {"rows": 4, "unreadable": 0, "too_short": 1, "passages": 8 + 1 + 13}
    assert passages.hits("") == []


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (f"Somebody asked: {QUESTION} Nobody knew.", [1]),
        (f"Somebody asked: {QUESTION.upper().replace(' ', ' -- ')}", [1]),
        (" ".join(QUESTION.split()[:13]), [1]),
        (" ".join(QUESTION.split()[:12]), []),
        (" ".join(QUESTION.split()[:12]) + " Worms and joins", []),
        (f"{SHORT}! He did. {QUESTION}", [1, 2]),
        (" ".join(SHORT.split()[:-1]), []),
        (f"有人问：{CHINESE}", [4]),
        (CHINESE[:20].replace("，", ""), []),
        ("Too short? yes", []),
    ],
)
def test_passages_in_documents(tmp_path: Path, text: str, rows: list[int]) -> None:
    passages, _ = _passages(tmp_path)
    assert [hit["evaluation_row"] for hit in passages.hits(text)] == rows


def test_a_passage_of_two_rows_hits_both_and_says_what_it_was(tmp_path: Path) -> None:
    passages, _ = _passages(tmp_path, [ROWS[0], ROWS[1], ROWS[0]])
    hits = passages.hits(QUESTION)
    assert [hit["evaluation_row"] for hit in hits] == [1, 3] and hits[0]["evaluation_set"] == "quiz"
    assert hits[0]["passage"] == "which river flows through the old town of heidelberg and joins the rhine"


def test_a_set_without_passages_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"quiz has no passage of 8 words or more \(1 rows, 1 unreadable\)"):
        _passages(tmp_path, [{"q": "Short?", "a": ""}, {"x": "no column"}])


def test_contaminated_documents_go_and_what_was_hit_is_listed(tmp_path: Path) -> None:
    for name in ("quiz", "pages"):
        (tmp_path / name).mkdir()
    (tmp_path / "quiz" / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    texts = [f"page {n} says that number {n * n} follows {n}" for n in range(40)]
    texts[7] += f" and {QUESTION}"
    (tmp_path / "pages" / "p.txt").write_text("\n".join(texts))
    source = {"name": "pages", "dataset": "./pages", "format": {"type": "text", "documents": "line"}, "domain": "web"}
    job = {
        "sources": [source],
        "rules": {"gopher": None, "repetition": None},
        "decontamination": _spec().model_dump(mode="json"),
        "output": {"type": "rows"},
    }
    found = cleaned(tmp_path, job)
    numbers = found.manifest.metrics
    assert numbers["dropped"] == {"contaminated": 1} and numbers["documents_kept"] == 39
    assert numbers["evaluation_sets"]["quiz"]["rows_hit"] == numbers["evaluation_sets"]["quiz"]["hits"] == 1
    (hit,) = [json.loads(line) for line in (found.path / "rejects" / "contamination.jsonl").read_text().splitlines()]
    assert (hit["file"], hit["row"], hit["evaluation_set"], hit["evaluation_row"]) == ("p.txt", 8, "quiz", 1)
    assert found.manifest.parents[1].field == "decontamination.against.0.dataset"
