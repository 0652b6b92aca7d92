"""Every form of labelled data read, its bad rows named, and the set split and encoded with every row accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from support.tasks import entity_rows, review_rows, wordpiece, write_jsonl

from rayloom.errors import InputError
from rayloom.specs.row_files import RowFiles
from rayloom.specs.training.labelled_data import DocumentRows, LabelledData, Reading
from rayloom.specs.training.tasks import Task
from rayloom.text.labelled.dataset import EXAMPLES_NAME, prepare_labelled, split_examples
from rayloom.text.labelled.encoded_rows import TaskRows
from rayloom.text.labelled.encoding import TaskEncoder
from rayloom.text.labelled.examples import Example, ExampleError, Span, read_examples
from rayloom.text.labelled.labelled_rows import labelled_rows

LABELS = {"type": "text_classification", "labels": ["no", "yes"]}
TABLE = {"type": "table", "names": {"0": "no", "1": "yes"}}


def read(file: Path, reading: dict[str, Any]) -> list[Any]:
    spec = TypeAdapter(Reading).validate_python(reading)
    return [row for _, row in labelled_rows([file], spec)]


def encoder(task: dict[str, Any], max_tokens: int = 16) -> TaskEncoder:
    return TaskEncoder(TypeAdapter(Task).validate_python(task), wordpiece(), max_tokens)


def data(reading: dict[str, Any], **changes: Any) -> LabelledData:
    values = {"type": "labelled", "sources": [{"dataset": "./x", "read": reading}], "heldout_rows": 4}
    return LabelledData.model_validate(values | changes)


def test_tables_take_csv_names_pairs_and_a_filter(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text('text,label,from\n"fine, film",1,a\ndull,0,b\n,1,a\n')
    fine, passed, empty = read(file, {**TABLE, "only": {"from": "a"}})
    assert (fine.text, fine.labels, fine.origin) == ("fine, film", ("yes",), "x.csv row 1")
    assert passed is None
    assert isinstance(empty, ExampleError)
    assert empty.problem == "empty_text"


def test_lines_and_documents_have_the_label_of_their_source(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n\ntwo\n")
    assert [row and row.text for row in read(tmp_path / "a.txt", {"type": "lines", "label": "yes"})] == [
        "one", "two",
    ]  # fmt: skip
    (tmp_path / "b.txt").write_bytes("caf\xe9\nbar".encode("latin-1"))
    (refused,) = read(tmp_path / "b.txt", {"type": "documents", "label": "no"})
    assert refused.problem == "unreadable" and "byte 3 is not UTF-8" in str(refused)
    how = RowFiles(encoding="latin-1")
    ((origin, named),) = labelled_rows([tmp_path / "b.txt"], DocumentRows(type="documents", label="no"), how)
    assert isinstance(named, Example) and (origin, named.text) == ("b.txt", "café\nbar")
    (tmp_path / "c.txt").write_bytes(b" \n")
    assert read(tmp_path / "c.txt", {"type": "documents", "label": "no"})[0].problem == "empty_text"


def test_conll_and_tagged_words_give_the_same_entities(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Anna\tB-person\nleft\tO\n\nRome\tB-place\n")
    first, second = read(tmp_path / "a.txt", {"type": "conll"})
    assert (first.text, first.spans) == ("Anna left", (Span(0, 4, "person"),))
    assert second.origin == "a.txt sentence 2"
    (tmp_path / "b.txt").write_text("江/nr  泽民/nr  在/p  北京/ns\n")
    reading = {"type": "tagged_words", "entities": {"nr": "person", "ns": "place"}}
    (row,) = read(tmp_path / "b.txt", reading)
    assert (row.text, row.spans) == ("江泽民在北京", (Span(0, 3, "person"), Span(4, 6, "place")))


@pytest.mark.parametrize(
    ("row", "reading", "problem"),
    [
        ({"text": "a", "entities": [{"start": 0, "end": 9, "label": "x"}]}, {"type": "spans"}, "bad_span"),
        (
            {"text": "ab", "entities": [{"start": s, "end": 2, "label": "x"} for s in (0, 1)]},
            {"type": "spans"},
            "overlapping_spans",
        ),
        ({"text": "a"}, {"type": "spans"}, "missing_column"),
        ({"text": 3, "label": "x"}, TABLE, "not_text"),
        (
            {"context": "a b", "question": "?", "answers": [{"text": "c"}]},
            {"type": "questions"},
            "answer_not_in_context",
        ),
        (
            {"text": "a b", "head": {"start": 0, "end": 2}, "tail": {"start": 1, "end": 3}, "label": "x"},
            {"type": "relations"},
            "overlapping_spans",
        ),
    ],
)
def test_bad_rows_are_named(row: dict[str, Any], reading: dict[str, Any], problem: str, tmp_path: Path) -> None:
    (found,) = read(write_jsonl([row], tmp_path / "x.jsonl"), reading)
    assert isinstance(found, ExampleError)
    assert found.problem == problem


def test_all_bad_rows_come_at_once_with_their_numbers(tmp_path: Path) -> None:
    rows = [*review_rows(12), {"text": "x", "label": "maybe"}, {"text": "", "label": 1}, {"label": 1}]
    files = {"data.sources.0.dataset": [write_jsonl(rows, tmp_path / "x.jsonl")]}
    with pytest.raises(InputError) as raised:
        split_examples(data(TABLE), files, encoder(LABELS), 0)
    said = str(raised.value)
    assert "3 rows cannot be trained on" in said
    for place in ("row 13 (unknown_label): 'maybe'", "row 14 (empty_text)", "row 15 (missing_column)"):
        assert f"x.jsonl {place}" in said
    left_out = data(TABLE, leave_out=["unknown_label", "empty_text", "missing_column"])
    train, heldout = split_examples(left_out, files, encoder(LABELS), 0)
    assert len(heldout) == 4
    assert len(train) <= 8


def test_no_text_is_both_trained_on_and_held_out(tmp_path: Path) -> None:
    rows = review_rows(12) * 2
    files = {"data.sources.0.dataset": [write_jsonl(rows, tmp_path / "x.jsonl")]}
    made = prepare_labelled(data(TABLE), files, encoder(LABELS), 0, tmp_path / "out")
    heldout = {example.text for example in read_examples(tmp_path / "out/heldout" / EXAMPLES_NAME)}
    train, _ = split_examples(data(TABLE), files, encoder(LABELS), 0)
    assert not heldout & {example.text for example in train}
    assert made.train.rows == len(train) == len(TaskRows(tmp_path / "out/train"))
    assert made.train.rows + made.heldout.rows + made.left_out["same_as_a_heldout_row"] == 24
    assert made.repeated_in_training > 0


def test_texts_longer_than_a_row_are_an_error_unless_the_spec_says_what_to_do(tmp_path: Path) -> None:
    rows = [{"text": f"the film was very fine {'then ' * n}", "label": 1} for n in range(12)]
    files = {"data.sources.0.dataset": [write_jsonl(rows, tmp_path / "x.jsonl")]}
    short = encoder(LABELS, 12)
    with pytest.raises(InputError, match=r"6 of 12 rows are longer.*row 7 \(13\)"):
        split_examples(data(TABLE), files, short, 0)
    with pytest.raises(InputError, match="max_length_policy_share"):
        split_examples(data(TABLE, length_policy="truncate"), files, short, 0)
    cut = data(TABLE, length_policy="truncate", max_length_policy_share=1.0)
    made = prepare_labelled(cut, files, short, 0, tmp_path / "out")
    assert made.truncated_rows == 6
    stored = TaskRows(tmp_path / "out/train")
    assert max(len(stored.row(n).tokens) for n in range(len(stored))) == 12
    dropped = data(TABLE, length_policy="drop", max_length_policy_share=0.5, heldout_rows=2)
    assert len(split_examples(dropped, files, short, 0)[0]) == 4


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    task = {"type": "token_classification", "entities": ["person", "place"]}
    files = {"data.sources.0.dataset": [write_jsonl(entity_rows(10), tmp_path / "x.jsonl")]}
    maker = encoder(task)
    prepare_labelled(data({"type": "spans"}), files, maker, 0, tmp_path / "out")
    train, _ = split_examples(data({"type": "spans"}), files, maker, 0)
    stored = TaskRows(tmp_path / "out/train")
    for number, (row,) in enumerate(maker.rows(train)):
        assert stored.row(number).tokens.tolist() == row.tokens.tolist()
        assert stored.row(number).targets.tolist() == row.targets.tolist()
    with pytest.raises(InputError, match="no finished rows"):
        TaskRows(tmp_path)


def test_examples_survive_their_file(tmp_path: Path) -> None:
    example = Example("Anna in Rome", "where?", ("a",), (Span(0, 4, "person"),), "x row 1")
    assert Example.from_json(json.loads(json.dumps(example.as_json()))) == example
