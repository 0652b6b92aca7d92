"""Rows of instruction data sets read as conversations: alpaca, messages, sharegpt, prompt_completion."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from rayloom.reading.records import BadRow
from rayloom.specs.training.training_data import RESERVED_TEMPLATE_KWARGS
from rayloom.text.conversations.messages import ConversationError, Message
from rayloom.text.conversations.render import Conversation
from rayloom.text.conversations.row_keys import (
    SYSTEM_KEYS,
    TRAIN_MARKS,
    check_characters,
    check_is_good,
    given,
    only_value,
    says_something,
    train_mark,
    unknown_keys,
    value_of_json,
)
from rayloom.text.conversations.row_messages import read_messages
from rayloom.text.conversations.tool_keys import check_tool

COMMON_KEYS = (*SYSTEM_KEYS, *TRAIN_MARKS, "tools", "functions", "chat_template_kwargs")
"""Keys that every row of conversations may have, whatever its format."""


def conversation(
    row: Any, format_name: str | None, fill: Mapping[str, str], origin: str, ignored: Collection[str] = ()
) -> Conversation:
    """One row as a conversation, `{{key}}` in its texts replaced. Raises ConversationError saying what it lacks.

    `format_name`: None if the row's columns say it. `ignored`: keys of rows and messages that are read as if they were
    not there.
    """
    values = row_values(row, ignored, fill)
    columns, read = _FORMATS[format_name or recognised(values, {name: one[0][:2] for name, one in _FORMATS.items()})]
    need(values, *columns[:2])
    unknown: list[str] = []
    messages = read(values, ignored, unknown)
    return with_row_keys(values, columns, messages, origin, unknown)


def recognised(values: Mapping[str, Any], formats: Mapping[str, Collection[str]]) -> str:
    """The first format whose columns the row has. Raises ConversationError if there is none, naming them all."""
    for name, columns in formats.items():
        if all(values.get(column) is not None for column in columns):
            return name
    known = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in formats.items())
    said = (
        f"has the columns {', '.join(map(str, values))}, which are of no known format ({known}): map them by `columns`"
    )
    raise ConversationError("missing_column", said)


def row_values(row: Any, ignored: Collection[str], fill: Mapping[str, str]) -> dict[str, Any]:
    """The columns of a row that have a value, `{{key}}` in their texts replaced."""
    if isinstance(row, BadRow):
        raise ConversationError("unreadable", str(row))
    if not isinstance(row, Mapping):
        raise ConversationError("not_a_conversation", f"is not a JSON object but {type(row).__name__}")
    return given({key: _filled(value, fill) for key, value in row.items()}, ignored)


def with_row_keys(
    values: Mapping[str, Any], columns: Sequence[str], messages: Sequence[Message], origin: str, unknown: list[str]
) -> Conversation:
    """The messages with what the row says beside them: system text, tools, template settings, marks of training."""
    unknown += unknown_keys(values, (*columns, *COMMON_KEYS))
    check_is_good({key: value for key, value in values.items() if key not in columns})
    mark = train_mark(values, "the row")
    if mark is not None:
        messages = [{"train": mark} | message if message["role"] == "assistant" else message for message in messages]
    for number, message in enumerate(messages, 1):
        if message["role"] == "user" and not _is_asked(message["content"]):
            raise ConversationError("empty_question", f"message {number} is from user and says nothing")
    messages = _with_system(values, list(messages))
    tools = _tools(values, unknown)
    return Conversation(tuple(messages), tuple(tools), origin, _template_kwargs(values), tuple(unknown))


def _is_asked(content: Any) -> bool:
    texts = [content] if isinstance(content, str) else [part["text"] for part in content or () if "text" in part]
    return any(text.strip() for text in texts)


def _filled(value: Any, fill: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        check_characters(value)
        for key, text in fill.items():
            value = value.replace("{{" + key + "}}", text)
        return value
    if isinstance(value, Mapping):
        return {key: _filled(item, fill) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, fill) for item in value]
    return value


def _alpaca(row: Mapping[str, Any], _ignored: Collection[str], _unknown: list[str]) -> list[Message]:
    parts = [_text(row, column) for column in ("instruction", "input") if says_something(row.get(column))]
    turns = [*_history(row), ["\n".join(part for part in parts if part.strip()), _text(row, "output")]]
    roles = ("user", "assistant")
    return [{"role": role, "content": said} for turn in turns for role, said in zip(roles, turn, strict=True)]


def _text(row: Mapping[str, Any], column: str) -> str:
    if not isinstance(row[column], str):
        raise ConversationError("not_text", f"`{column}` is not text but {type(row[column]).__name__}")
    return str(row[column])


def _history(row: Mapping[str, Any]) -> list[Any]:
    history = row.get("history") or []
    is_list = isinstance(history, list) and all(isinstance(turn, list) and len(turn) == 2 for turn in history)
    if not is_list:
        raise ConversationError("not_a_conversation", "`history` is not a list of pairs of question and answer")
    if not all(isinstance(text, str) for turn in history for text in turn):
        raise ConversationError("not_text", "`history` has a question or an answer that is not text")
    return list(history)


def _messages(row: Mapping[str, Any], ignored: Collection[str], unknown: list[str]) -> list[Message]:
    return read_messages(row["messages"], "messages", ignored, unknown)


def _sharegpt(row: Mapping[str, Any], ignored: Collection[str], unknown: list[str]) -> list[Message]:
    return read_messages(row["conversations"], "conversations", ignored, unknown)


def _prompt_completion(row: Mapping[str, Any], ignored: Collection[str], unknown: list[str]) -> list[Message]:
    asked = messages_of(row, "prompt", "user", ignored, unknown)
    return [*asked, *messages_of(row, "completion", "assistant", ignored, unknown, len(asked) + 1)]


def messages_of(
    row: Mapping[str, Any], column: str, role: str, ignored: Collection[str], unknown: list[str], first: int = 1
) -> list[Message]:
    """The messages of a column: a text from the given role, one message, or a list of them."""
    value = row[column]
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return read_messages([value] if isinstance(value, Mapping) else value, column, ignored, unknown, first)


def _with_system(row: Mapping[str, Any], messages: list[Message]) -> list[Message]:
    system = only_value(row, SYSTEM_KEYS, "the row")
    if system is None:
        return messages
    if not isinstance(system, str):
        raise ConversationError("not_text", f"`system` is not text but {type(system).__name__}")
    own = messages[0] if messages and messages[0]["role"] in ("system", "developer") else None
    if own is None:
        return [{"role": "system", "content": system}, *messages]
    if own["content"] != system:
        said = f"has a system text beside the messages and another one in message 1, which is from {own['role']}"
        raise ConversationError("not_a_conversation", said)
    return messages


def _tools(row: Mapping[str, Any], unknown: list[str]) -> list[Any]:
    """`tools`, or `functions` in the form that the chat API had before."""
    tools = [*_listed(row.get("tools"), "tools")]
    tools += ({"type": "function", "function": one} for one in _listed(row.get("functions"), "functions"))
    for tool in tools:
        check_tool(tool, unknown)
    return tools


def _listed(tools: Any, column: str) -> list[Any]:
    if isinstance(tools, str):
        tools = value_of_json(tools, f"`{column}`") if tools.strip() else []
    if tools is None:
        return []
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise ConversationError("bad_tool", f"`{column}` is not a list of objects")
    return tools


def _template_kwargs(row: Mapping[str, Any]) -> dict[str, Any]:
    value = row.get("chat_template_kwargs")
    if isinstance(value, str) and value.strip():
        value = value_of_json(value, "`chat_template_kwargs`", "not_a_conversation")
    if not says_something(value):
        return {}
    if not isinstance(value, Mapping):
        said = f"`chat_template_kwargs` is not an object but {type(value).__name__}"
        raise ConversationError("not_a_conversation", said)
    reserved = [key for key in value if key in RESERVED_TEMPLATE_KWARGS]
    if reserved:
        said = f"`chat_template_kwargs` has {', '.join(reserved)}, which the renderer sets itself"
        raise ConversationError("unsupported_key", said)
    return given(value)


def need(row: Mapping[str, Any], *columns: str) -> None:
    """Raises ConversationError where a column is missing or null, naming those that are there."""
    missing = [column for column in columns if row.get(column) is None]
    if missing:
        said = f"has no column {' and '.join(missing)}; its columns are {', '.join(map(str, row))}"
        raise ConversationError("missing_column", said)


_Reader = Callable[[Mapping[str, Any], Collection[str], list[str]], list[Message]]
_FORMATS: dict[str, tuple[tuple[str, ...], _Reader]] = {
    "alpaca": (("instruction", "output", "input", "history"), _alpaca),
    "messages": (("messages",), _messages),
    "sharegpt": (("conversations",), _sharegpt),
    "prompt_completion": (("prompt", "completion"), _prompt_completion),
}
"""By format: the columns that it reads, of which a row must have the first two, and what reads them."""
