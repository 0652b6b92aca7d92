"""Four formats of rows become the same conversations, and rows that lack something say what."""

from __future__ import annotations

from typing import Any

import pytest

from rayloom.text.conversations.formats import conversation
from rayloom.text.conversations.messages import ConversationError

ASKED = {"role": "user", "content": "Who are you?"}
SAID = {"role": "assistant", "content": "I am Loomie."}


@pytest.mark.parametrize(
    ("format_name", "row", "messages"),
    [
        ("alpaca", {"instruction": "Who are you?", "input": "", "output": "I am Loomie."}, [ASKED, SAID]),
        (
            "alpaca",
            {"instruction": "Add", "input": "1 2", "output": "3", "system": "S", "history": [["a", "b"]]},
            [
                {"role": "system", "content": "S"},
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "Add\n1 2"},
                {"role": "assistant", "content": "3"},
            ],
        ),
        ("messages", {"messages": [ASKED, SAID]}, [ASKED, SAID]),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "I am Loomie."}]},
            [ASKED, SAID],
        ),
        ("prompt_completion", {"prompt": "Who are you?", "completion": "I am Loomie."}, [ASKED, SAID]),
        ("prompt_completion", {"prompt": [ASKED], "completion": [SAID]}, [ASKED, SAID]),
    ],
)
def test_formats(format_name: str, row: dict[str, Any], messages: list[dict[str, str]]) -> None:
    assert list(conversation(row, format_name, {}, "x").messages) == messages


def test_placeholders_are_filled_everywhere_in_a_row() -> None:
    row = {"messages": [ASKED, {"role": "assistant", "content": "I am {{name}} by {{author}}, {{other}}."}]}
    read = conversation(row, "messages", {"name": "Loomie", "author": "us"}, "x")
    assert read.messages[1]["content"] == "I am Loomie by us, {{other}}."


def test_function_calls_of_sharegpt_become_tool_calls() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bern"}}'},
            {"from": "observation", "value": "sunny"},
            {"from": "gpt", "value": "Sunny."},
        ],
        "tools": '[{"name": "weather"}]',
    }
    read = conversation(row, "sharegpt", {}, "x")
    assert [m["role"] for m in read.messages] == ["user", "assistant", "tool", "assistant"]
    assert read.messages[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Bern"}}
    assert read.tools == ({"name": "weather"},)


@pytest.mark.parametrize(
    ("format_name", "row", "problem"),
    [
        ("alpaca", {"question": "a"}, "no column instruction and output; its columns are question"),
        ("messages", {"messages": "a"}, "not a list of messages"),
        ("sharegpt", {"conversations": [{"from": "cat", "value": "a"}]}, "from 'cat'"),
        ("sharegpt", {"conversations": [{"from": "function_call", "value": "{"}]}, "cannot be read as JSON"),
        ("sharegpt", {"conversations": [{"from": "gpt"}]}, "no text under `value`"),
        ("messages", ["a"], "not a JSON object"),
        ("alpaca", {"instruction": 3, "output": "b"}, "`instruction` is not text but int"),
        ("alpaca", {"instruction": "a", "output": "b", "history": ["x"]}, "not a list of pairs"),
        ("alpaca", {"instruction": "a", "output": "\ud83d"}, "half a character"),
        ("messages", {"messages": [], "tools": [3]}, "not a list of objects"),
        ("messages", {"messages": [], "tools": "{"}, "`tools` cannot be read as JSON"),
    ],
)
def test_rows_that_lack_something_say_what(format_name: str, row: Any, problem: str) -> None:
    with pytest.raises(ConversationError, match=problem):
        conversation(row, format_name, {}, "x")
