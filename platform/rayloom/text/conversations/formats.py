"""Rows of instruction data sets read as conversations: alpaca, messages, sharegpt, prompt_completion."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rayloom.errors import InputError
from rayloom.text.conversations.messages import ConversationError, Message
from rayloom.text.conversations.render import Conversation

_SURROGATE = re.compile("[\ud800-\udfff]")
_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bing": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_call": "assistant",
}


def read_rows(files: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    """Every row of the files, each with its place: `file.json row 7`.

    A file is one JSON list, or JSON lines. Raises InputError where one cannot be read.
    """
    for file in files:
        for number, row in enumerate(_rows(file), 1):
            yield f"{file.name} row {number}", row


def _rows(file: Path) -> Iterator[Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("["):
            yield from json.loads(text)
            return
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield _parsed_line(line, file, number)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        fix = "Name files that hold a JSON list or JSON lines in UTF-8 with `files` of the source."
        raise InputError(f"This file cannot be read as rows: {error}", where=str(file), fix=fix) from None


def _parsed_line(line: str, file: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        fix = "Name files that hold a JSON list or JSON lines with `files` of the source."
        raise InputError(f"Line {number} is not JSON: {error}", where=str(file), fix=fix) from None


def conversation(row: Any, format_name: str, fill: Mapping[str, str], origin: str) -> Conversation:
    """One row as a conversation, `{{key}}` in its texts replaced. Raises ConversationError saying what it lacks."""
    if not isinstance(row, Mapping):
        raise ConversationError("not_a_conversation", f"is not a JSON object but {type(row).__name__}")
    filled = _filled(row, fill)
    return Conversation(tuple(_FORMATS[format_name](filled)), tuple(_tools(filled)), origin)


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


def check_characters(text: str) -> None:
    """Raises ConversationError where the text has half of a pair of surrogates, which JSON can and UTF-8 cannot say."""
    if not text.isascii() and _SURROGATE.search(text):
        raise ConversationError("not_text", "has half a character (a lone surrogate such as \\ud83d)")


def _alpaca(row: Mapping[str, Any]) -> list[Message]:
    _need(row, "instruction", "output")
    asked, given = _text(row, "instruction"), _text(row, "input") if row.get("input") else ""
    history = [
        message
        for before in _history(row)
        for message in ({"role": "user", "content": before[0]}, {"role": "assistant", "content": before[1]})
    ]
    question = {"role": "user", "content": f"{asked}\n{given}" if given else asked}
    return [*_system(row), *history, question, {"role": "assistant", "content": row["output"]}]


def _text(row: Mapping[str, Any], column: str) -> str:
    if not isinstance(row[column], str):
        raise ConversationError("not_text", f"`{column}` is not text but {type(row[column]).__name__}")
    return str(row[column])


def _history(row: Mapping[str, Any]) -> list[Any]:
    history = row.get("history") or []
    is_list = isinstance(history, list) and all(isinstance(turn, list) and len(turn) == 2 for turn in history)
    if not is_list:
        raise ConversationError("not_a_conversation", "`history` is not a list of pairs of question and answer")
    return list(history)


def _messages(row: Mapping[str, Any]) -> list[Message]:
    _need(row, "messages")
    return _objects(row["messages"], "messages")


def _sharegpt(row: Mapping[str, Any]) -> list[Message]:
    _need(row, "conversations")
    turns = _objects(row["conversations"], "conversations")
    return [*_system(row), *(_sharegpt_message(turn, number) for number, turn in enumerate(turns, 1))]


def _sharegpt_message(turn: Message, number: int) -> Message:
    said_by, text = turn.get("from"), turn.get("value")
    role = _SHAREGPT_ROLES.get(str(said_by))
    if role is None:
        known = ", ".join(_SHAREGPT_ROLES)
        raise ConversationError("roles_out_of_order", f"message {number} is from {said_by!r}; known are {known}")
    if not isinstance(text, str):
        raise ConversationError("not_a_conversation", f"message {number} has no text under `value`")
    if said_by == "function_call":
        return {"role": role, "content": None, "tool_calls": _function_calls(text, number)}
    return {"role": role, "content": text} | ({"train": turn["train"]} if "train" in turn else {})


def _function_calls(text: str, number: int) -> list[dict[str, Any]]:
    try:
        calls = json.loads(text)
    except json.JSONDecodeError:
        raise ConversationError("bad_tool", f"message {number} is a function_call that is not JSON") from None
    calls = calls if isinstance(calls, list) else [calls]
    return [{"type": "function", "function": call} for call in calls]


def _prompt_completion(row: Mapping[str, Any]) -> list[Message]:
    _need(row, "prompt", "completion")
    return [*_system(row), *_as_messages(row["prompt"], "user"), *_as_messages(row["completion"], "assistant")]


def _as_messages(value: Any, role: str) -> list[Message]:
    return [{"role": role, "content": value}] if isinstance(value, str) else _objects(value, role)


def _system(row: Mapping[str, Any]) -> list[Message]:
    return [{"role": "system", "content": row["system"]}] if row.get("system") else []


def _tools(row: Mapping[str, Any]) -> list[Any]:
    tools = row.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else []
        except json.JSONDecodeError:
            raise ConversationError("bad_tool", "`tools` is not JSON") from None
    if tools is None:
        return []
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise ConversationError("bad_tool", "`tools` is not a list of objects")
    return tools


def _objects(value: Any, column: str) -> list[Message]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise ConversationError("not_a_conversation", f"`{column}` is not a list of messages")
    return [dict(item) for item in value]


def _need(row: Mapping[str, Any], *columns: str) -> None:
    missing = [column for column in columns if row.get(column) is None]
    if missing:
        said = f"has no column {' and '.join(missing)}; its columns are {', '.join(row)}"
        raise ConversationError("missing_column", said)


_FORMATS: dict[str, Callable[[Mapping[str, Any]], list[Message]]] = {
    "alpaca": _alpaca,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "prompt_completion": _prompt_completion,
}
