"""What the keys of tools and of calls mean: nothing of a definition or of its arguments is passed over.

Read off vLLM 0.32 (`FunctionDefinition`, `FunctionCall`): the server gives a template these keys and no others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from rayloom.text.conversations.messages import ConversationError
from rayloom.text.conversations.row_keys import given, says_something, unknown_keys, value_of_json

_OF_TOOL = ("name", "description", "parameters", "strict")
_OF_CALL = ("name", "arguments")
_ARGUMENTS = re.compile(r"(function_)?(parameters|params|args|kwargs|inputs?)", re.IGNORECASE)
_PARAMETERS = re.compile(
    r"((json|input|args|parameters)_?)?schema|properties|arguments|params|args|inputs?", re.IGNORECASE
)


def read_call(call: Any, where: str, ignored: Collection[str], unknown: list[str]) -> Any:
    """A call with its arguments as values; `unknown` gets the keys that have no meaning.

    Raises ConversationError for arguments that are no JSON or stand under a key that is not read, and for a call that
    is marked as not to be trained, where the whole answer would be.
    """
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return call  # named with everything else that is wrong with a call, when it is rendered
    function = given(function, ignored)
    name = function.get("name")
    _check(function, _OF_CALL, _ARGUMENTS, f"{where}: the call of {name}", "arguments")
    unknown += [f"messages.tool_calls.{key}" for key in unknown_keys(function, (*_OF_CALL, "description"), where)]
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        function["arguments"] = value_of_json(arguments, f"{where}: the arguments of the call of {name}")
    return {**call, "function": function}


def check_tool(tool: Mapping[str, Any], unknown: list[str]) -> None:
    """Raises ConversationError for a definition whose parameters would be lost; `unknown` gets keys without meaning."""
    function = tool.get("function", tool)
    if not isinstance(function, Mapping):
        return  # named when it is rendered
    what = f"the tool {function.get('name')}"
    _check(function, _OF_TOOL, _PARAMETERS, what, "parameters")
    for key, kind, said in (("parameters", Mapping, "an object"), ("description", str, "a text")):
        if function.get(key) is not None and not isinstance(function[key], kind):
            raise ConversationError("bad_tool", f"{what} has {key} that are not {said}: {type(function[key]).__name__}")
    known = (*_OF_TOOL, "type", "function")
    unknown += [f"tools.{key}" for key, value in function.items() if key not in known and says_something(value)]


def _check(values: Mapping[str, Any], known: Collection[str], lost: re.Pattern[str], what: str, name: str) -> None:
    for key, value in values.items():
        if key not in known and lost.fullmatch(str(key)) and says_something(value):
            raise ConversationError("bad_tool", f"{what} has the key `{key}`, which would be lost: name it `{name}`")
