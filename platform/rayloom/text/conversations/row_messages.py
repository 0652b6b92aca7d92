"""One message of a row, in whichever keys its format writes it, as a message of the chat API."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rayloom.text.conversations.messages import ConversationError, Message
from rayloom.text.conversations.row_keys import (
    REASONING_KEYS,
    TRAIN_MARKS,
    check_is_good,
    given,
    only_value,
    says_something,
    train_mark,
    unknown_keys,
    value_of_json,
)
from rayloom.text.conversations.tool_keys import read_call

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bing": "assistant",
    "chatgpt": "assistant",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
} | {role: role for role in ("user", "assistant", "system", "developer", "tool")}
_CALL_ROLES = ("function_call", "tool_call")
_KNOWN = (
    *("role", "from", "content", "value", "name", "tool_calls", "function_call", "tool_call_id", "tools"),
    *REASONING_KEYS,
    *TRAIN_MARKS,
)
_KNOWN_OF_PART = ("type", "text", "thinking", "cache_control", "annotations")


def read_messages(
    value: Any, column: str, ignored: Collection[str], unknown: list[str], first: int = 1
) -> list[Message]:
    """The messages of a list.

    `unknown` gets the keys that have no meaning; `first` is the number of the first message, for messages to people.
    A table without lists has them as JSON. Raises ConversationError saying what is wrong with which message.
    """
    if isinstance(value, str):
        value = value_of_json(value, f"`{column}` is not a list of messages, and its text", "not_a_conversation")
    if not isinstance(value, list | tuple) or not all(isinstance(item, Mapping) for item in value):
        raise ConversationError("not_a_conversation", f"`{column}` is not a list of messages")
    return [read_message(item, number, ignored, unknown) for number, item in enumerate(value, first)]


def read_message(values: Mapping[str, Any], number: int, ignored: Collection[str], unknown: list[str]) -> Message:
    """One message: `role` and `content`, or `from` and `value`, and everything else that it says."""
    where = f"message {number}"
    values = given(values, ignored)
    unknown += [f"messages.{key}" for key in unknown_keys(values, _KNOWN, where)]
    check_is_good(values, where)
    named, role = _role(values, where)
    content = only_value(values, ("content", "value"), where)
    content = values.get("content", values.get("value")) if content is None else content
    message: Message = {"role": role}
    calls = _calls(values, where)
    if named in _CALL_ROLES:
        calls, content = [*calls, *_written_calls(content, where)], None
    elif content is None and not calls and (role != "assistant" or "from" in values):
        column = "value" if "from" in values else "content"
        raise ConversationError("not_a_conversation", f"{where} has no text under `{column}`")
    calls = [read_call(call, where, ignored, unknown) for call in calls]
    _check_content(content, where)
    message["content"] = content
    _add_what_answers_say(message, values, calls, where)
    for key in ("name", "tool_call_id"):
        if key in values:
            message[key] = values[key]
    if role == "developer" and says_something(values.get("tools")):
        message["tools"] = values["tools"]
    elif says_something(values.get("tools")):
        raise ConversationError("bad_tool", f"{where} is from {role} and has `tools`: they belong to the row")
    mark = train_mark(values, where)
    return message if mark is None else message | {"train": mark}


def _role(values: Mapping[str, Any], where: str) -> tuple[str, str]:
    """The role as it is written, and as the chat API calls it."""
    written = [str(values[key]) for key in ("role", "from") if key in values]
    if not written:
        keys = ", ".join(map(str, values)) or "none"
        problem = f"{where} has neither `role` nor `from`; its keys are {keys}"
        raise ConversationError("roles_out_of_order", problem)
    roles = {_ROLES.get(name) for name in written}
    if len(roles) > 1:
        raise ConversationError("roles_out_of_order", f"{where} is from {written[0]} and from {written[1]}")
    role = roles.pop()
    if role is None:
        problem = f"{where} is from {written[0]!r}, which has no meaning; roles are {', '.join(_ROLES)}"
        raise ConversationError("roles_out_of_order", problem)
    return written[0], role


def _check_content(content: Any, where: str) -> None:
    """Raises ConversationError for content of which a part would be lost, or would be trained as another text."""
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list | tuple):
        raise ConversationError("not_text", f"{where}: the content is not text but {type(content).__name__}")
    for part in content:
        if not isinstance(part, Mapping):
            problem = (
                f"{where}: the content is a list that holds {type(part).__name__}; give one text, or parts with type"
            )
            raise ConversationError("not_text", problem)
        values = given(part)
        kind = values.get("type")
        text = values.get("thinking" if kind == "thinking" else "text")
        if not isinstance(text, str):
            problem = f"{where}: a part of the content of type {kind!r} has no text; only text is supported"
            raise ConversationError("not_text", problem)
        for key in unknown_keys(values, _KNOWN_OF_PART, f"{where}: a part of the content"):
            problem = f"{where}: a part of the content has the key `{key}`, which would be lost"
            raise ConversationError("unsupported_key", problem)


def _add_what_answers_say(message: Message, values: Mapping[str, Any], calls: list[Any], where: str) -> None:
    reasoning = only_value(values, REASONING_KEYS, where)
    if reasoning is not None and not isinstance(reasoning, str):
        raise ConversationError("not_text", f"{where}: the reasoning is not text but {type(reasoning).__name__}")
    if message["role"] == "assistant":
        message |= {key: value for key, value in (("tool_calls", calls), ("reasoning", reasoning)) if value}
        return
    if calls or reasoning:
        problem = (
            f"{where} is from {message['role']} and has {'calls' if calls else 'reasoning'}, which only answers have"
        )
        raise ConversationError("bad_tool" if calls else "unsupported_key", problem)


def _calls(values: Mapping[str, Any], where: str) -> list[Any]:
    """`tool_calls`, or a `function_call` in the form that the chat API had before."""
    calls = values.get("tool_calls")
    if not says_something(calls):
        calls = []
    elif isinstance(calls, str):
        calls = value_of_json(calls, f"{where}: `tool_calls`")
    if not isinstance(calls, list | tuple):
        raise ConversationError("bad_tool", f"{where}: `tool_calls` is not a list but {type(calls).__name__}")
    older = values.get("function_call")
    return [*calls, *(_written_calls(older, where) if says_something(older) else [])]


def _written_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """One call or a list of them, each with name and arguments, as JSON or as values."""
    calls = value_of_json(value, f"{where}: the function_call") if isinstance(value, str) else value
    calls = calls if isinstance(calls, list) else [calls]
    return [{"type": "function", "function": call} for call in calls]
