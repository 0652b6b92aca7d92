"""Whatever stands in a row's columns, the row is read or refused by name: nothing else comes out, and no traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from support.tasks import write_jsonl
from support.tokenizers import chatml

from rayloom.errors import InputError
from rayloom.specs.training.labelled_data import Reading
from rayloom.text.conversations.formats import conversation
from rayloom.text.conversations.judged_rows import judged_row
from rayloom.text.conversations.messages import ConversationError
from rayloom.text.conversations.preference_rows import answer_sample
from rayloom.text.conversations.render import Renderer
from rayloom.text.labelled.examples import Example, ExampleError
from rayloom.text.labelled.labelled_rows import labelled_rows
from rayloom.text.row_problems import NUM_PROBLEMS_SHOWN, RowProblems

USER = {"role": "user", "content": "a"}
STRANGE: list[Any] = [
    None, 3, True, "", " ", "{", "3", "[3]", "\ud83d", [], {}, [1], [None], [[]], [["a"]], [["a", "b"]],
    [{"role": 1}], [{"role": ["user"]}], [{"role": "user"}], [{"role": "user", "content": 3}], [{"type": 3}],
    [USER, {"role": "assistant", "content": ["x"]}], [USER, {"role": "assistant", "content": [{"type": "text"}]}],
    [USER, {"role": "assistant", "tool_calls": 3}], [USER, {"role": "assistant", "tool_calls": [{"function": 3}]}],
    [USER, {"role": "assistant", "content": "b", "train": "no"}], [{"from": "gpt"}], [{"from": ["x"], "value": "y"}],
    [{"from": "human", "value": "a"}, {"from": "function_call", "value": "[3]"}], {"from": "gpt", "value": 3},
    {"start": "0", "end": 1}, [{"text": 3}], [{"text": "a", "start": "x"}], [{"text": "a", "start": -3}],
    [{"start": 0, "end": 1, "label": ["x"]}], [{"start": 0.0, "end": 1, "label": "x"}],
]  # fmt: skip
CHATS: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "a", "input": "", "output": "b", "history": [["x", "y"]], "system": "s"},
    "messages": {"messages": [USER, {"role": "assistant", "content": "b"}], "tools": []},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
        "tools": "[]",
        "system": "s",
    },
    "prompt_completion": {"prompt": "a", "completion": "b", "system": "s"},
}
JUDGED: dict[str, dict[str, Any]] = {
    "prompt_chosen_rejected": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "a"}],
        "chosen": {"from": "gpt", "value": "b"},
        "rejected": {"from": "gpt", "value": "c"},
    },
    "messages_label": {"messages": CHATS["messages"]["messages"], "label": True},
}
LABELLED: dict[str, dict[str, Any]] = {
    "table": {"text": "a", "label": "x"},
    "spans": {"text": "abc", "entities": [{"start": 0, "end": 1, "label": "x"}]},
    "relations": {"text": "abc def", "head": {"start": 0, "end": 3}, "tail": {"start": 4, "end": 7}, "label": "x"},
    "questions": {"context": "abc", "question": "?", "answers": [{"text": "a", "start": 0}]},
    "pairs": {"source": "a", "target": "b"},
}


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(chatml())


@pytest.mark.parametrize("format_name", CHATS)
def test_conversations(format_name: str, renderer: Renderer) -> None:
    row = CHATS[format_name]
    assert renderer.samples(conversation(row, format_name, {}, "x"))
    num_refused = 0
    for strange in (row | {column: value} for column in row for value in STRANGE):
        try:
            renderer.samples(conversation(strange, format_name, {}, "x"))
        except ConversationError:
            num_refused += 1
    assert num_refused > len(STRANGE) / 2


@pytest.mark.parametrize("format_name", JUDGED)
def test_judged_answers(format_name: str, renderer: Renderer) -> None:
    row = JUDGED[format_name]
    assert judged_row(row, format_name, "x").better[-1]["content"] == "b"
    num_refused = 0
    for strange in (row | {column: value} for column in row for value in STRANGE):
        try:
            judged = judged_row(strange, format_name, "x")
            answer_sample(renderer, judged, judged.better)
        except ConversationError:
            num_refused += 1
    assert num_refused > len(STRANGE) / 2


@pytest.mark.parametrize("kind", LABELLED)
def test_labelled_texts(kind: str, tmp_path: Path) -> None:
    row, reading = LABELLED[kind], TypeAdapter(Reading).validate_python({"type": kind})
    rows = [row, *(row | {column: value} for column in row for value in STRANGE)]
    found = [one for _, one in labelled_rows([write_jsonl(rows, tmp_path / "x.jsonl")], reading)]
    assert isinstance(found[0], Example)
    assert len(found) == len(rows)
    assert sum(isinstance(one, ExampleError) for one in found) > len(STRANGE) / 2


def test_every_bad_row_is_named_however_many_there_are() -> None:
    problems = RowProblems(())
    for number in range(1, 31):
        problems.add(f"x.jsonl row {number}", ExampleError("no_label", "has no label"))
    with pytest.raises(InputError) as raised:
        problems.raise_any()
    said = str(raised.value)
    assert "30 rows cannot be trained on" in said
    assert said.count("has no label") == NUM_PROBLEMS_SHOWN
    assert all(f"x.jsonl row {number} (no_label)" in said for number in range(1, 31))


def test_thousands_of_bad_rows_are_named_by_their_first_and_last() -> None:
    problems = RowProblems(())
    for number in (*range(1, 5001), *range(6001, 8001)):
        problems.add(f"x.jsonl row {number}", ExampleError("no_label", "has no label"))
    problems.add("y.jsonl row 8001", ExampleError("no_text", "has no text"))
    problems.add("some.txt", ExampleError("no_text", "has no text"))
    with pytest.raises(InputError) as raised:
        problems.raise_any()
    said = str(raised.value)
    assert "7002 rows cannot be trained on" in said
    assert "x.jsonl row 50 (no_label), x.jsonl rows 51 to 5000 (no_label), x.jsonl rows 6001 to 8000 (no_label)" in said
    assert "y.jsonl row 8001 (no_text), some.txt (no_text)" in said
    assert len(said) < 3000


def test_rows_that_are_too_scattered_to_be_named_are_counted() -> None:
    problems = RowProblems(())
    for number in range(1, 1001):
        problems.add(f"x.jsonl row {2 * number}", ExampleError("no_label", "has no label"))
    with pytest.raises(InputError, match="and 850 further ones"):
        problems.raise_any()
