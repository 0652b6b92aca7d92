"""Messages as the vLLM server hands them to a chat template.

The server edits what a request says before it renders it; training has to make the same edits, or prompts differ. Read
off vLLM 0.32 (`renderers/chat_utils.py`, `renderers/hf.py` and the request classes); `tests/integration/
test_server_prompts.py` compares the outcome with the server's own code. Text only: a picture or sound is an error.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2 import Template, nodes

from rayloom.specs.training.training_data import RowProblem

Message = dict[str, Any]
"""`role`, `content`, and where they apply `tool_calls`, `tool_call_id`, `reasoning`, `name`, as the API has them."""

_TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "thinking")
_KEPT_STRINGS = ("name", "task")


class ConversationError(ValueError):
    """What is wrong with one conversation. Whoever reads the rows adds which one it is."""

    def __init__(self, problem: RowProblem, said: str) -> None:
        super().__init__(said)
        self.problem = problem


def as_served(messages: Sequence[Mapping[str, Any]], template: str) -> list[Message]:
    """The messages after the server's edits, ready for `template`.

    Null content becomes empty, text parts are joined by line breaks (or kept as parts, where the template loops over
    them), tool arguments become mappings, and the developer role becomes a system message unless the template has it.
    """
    wants_parts = loops_over_parts(template)
    edited = [_edited(message, wants_parts) for message in messages]
    if any(message["role"] == "developer" for message in edited) and not _knows_developer(template):
        edited = _one_system_message([_developer_as_system(message) for message in edited])
    return edited


def tools_as_served(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Tool definitions with the keys, and in the order, that the server gives to a template."""
    if not tools:
        return None
    return [{"type": "function", "function": _tool_function(tool)} for tool in tools]


def _tool_function(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ConversationError("bad_tool", "a tool definition has no name")
    known = {"name": function["name"]} | {key: function.get(key) for key in ("description", "parameters")}
    if function.get("strict") is not None:
        known["strict"] = function["strict"]
    return known


def _edited(message: Mapping[str, Any], wants_parts: bool) -> Message:
    role = message["role"]
    edited: Message = {"role": role, "content": _content(message.get("content"), wants_parts and role != "tool")}
    if role == "assistant":
        if message.get("tool_calls"):
            edited["tool_calls"] = [_tool_call(call) for call in _calls(message["tool_calls"])]
        reasoning = message.get("reasoning", message.get("reasoning_content"))
        if reasoning is not None:
            edited["reasoning"] = edited["reasoning_content"] = reasoning
    elif role == "tool" and "tool_call_id" in message:
        edited["tool_call_id"] = message["tool_call_id"]
    elif role == "developer":
        edited["tools"] = message.get("tools")
    return edited | {key: message[key] for key in _KEPT_STRINGS if isinstance(message.get(key), str)}


def _content(content: Any, wants_parts: bool) -> Any:
    if content is None:
        texts = []
    elif isinstance(content, str):
        texts = [content]
    elif isinstance(content, Sequence):
        texts = [text for part in content if (text := _part_text(part)) is not None]
    else:
        raise ConversationError("not_text", f"content must be text or a list of parts, not {type(content).__name__}")
    return [{"type": "text", "text": text} for text in texts] if wants_parts else "\n".join(texts)


def _part_text(part: Any) -> str | None:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind not in _TEXT_PARTS:
        raise ConversationError("not_text", f"content has a part of type {kind!r}; only text is supported")
    text = part.get("thinking" if kind == "thinking" else "text")
    return None if text is None else str(text)


def _calls(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ConversationError("bad_tool", f"`tool_calls` is not a list but {type(value).__name__}")
    return value


def _tool_call(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ConversationError("bad_tool", "a tool call has no function name")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            # The server would go on with no arguments; as something to learn from, that is wrong.
            said = f"the arguments of tool call {function['name']} are not JSON"
            raise ConversationError("bad_tool", said) from None
    if not isinstance(arguments, Mapping):
        raise ConversationError("bad_tool", f"the arguments of tool call {function['name']} are not a mapping")
    named = {"id": call["id"]} if call.get("id") is not None else {}
    return named | {"function": {"arguments": dict(arguments), "name": function["name"]}, "type": "function"}


def _developer_as_system(message: Message) -> Message:
    if message["role"] != "developer":
        return message
    return {key: value for key, value in message.items() if key != "tools"} | {"role": "system"}


def _one_system_message(messages: list[Message]) -> list[Message]:
    """All system texts in one message at the front, where one stands later or there are several."""
    system = [message for message in messages if message["role"] == "system"]
    if len(system) == 1 and messages[0] is system[0]:
        return messages
    texts = [text for message in system if (text := _content(message["content"], wants_parts=False))]
    others = [message for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join(texts)}, *others]


def _knows_developer(template: str) -> bool:
    return "'developer'" in template or '"developer"' in template


# -- does the template loop over the parts of a message? -------------------------------------------------------------


@functools.lru_cache(maxsize=32)
def loops_over_parts(template: str) -> bool:
    """Whether the template iterates over a message's content, so that the server gives it parts and not a string."""
    root = parsed_template(template)
    message_names = _loop_targets(root, _names_of_messages(root))
    macros = list(root.find_all(nodes.Macro))
    in_macros = {id(loop) for macro in macros for loop in macro.find_all(nodes.For)}
    for loop in root.find_all(nodes.For):
        subject = _subject(loop.iter)
        if _is_content_of(subject, message_names):
            return True
        if id(loop) not in in_macros and _is_name(subject, {"content"}):
            return True
    return any(_macro_loops(macro, root, message_names) for macro in macros)


def parsed_template(template: str) -> nodes.Template:
    parsed: nodes.Template = compiled_template(template).environment.parse(template)
    return parsed


@functools.lru_cache(maxsize=32)
def compiled_template(template: str) -> Template:
    """The template in transformers' own sandbox, with its filters and tags such as {% generation %}; kept."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    compiled: Template = _compile_jinja_template(template)
    # Jinja copies what is global into each rendering; from a chain of mappings, that takes a tenth of the time.
    compiled.globals = dict(compiled.globals)
    return compiled


def _names_of_messages(root: nodes.Template) -> set[str]:
    """`messages` and every name that the template gives to it or to a slice of it."""
    names = {"messages"}
    for _ in range(8):  # an alias of an alias; each pass finds one level more
        for assign in root.find_all(nodes.Assign):
            if _is_name(_subject(assign.node), names) and isinstance(assign.target, nodes.Name):
                names.add(assign.target.name)
    return names


def _loop_targets(root: nodes.Template, lists: set[str]) -> set[str]:
    loops = root.find_all(nodes.For)
    return {
        loop.target.name
        for loop in loops
        if isinstance(loop.target, nodes.Name) and _is_name(_subject(loop.iter), lists)
    }


def _macro_loops(macro: nodes.Macro, root: nodes.Template, message_names: set[str]) -> bool:
    """Whether the macro is called with a message's content and loops over that parameter."""
    parameters = [argument.name for argument in macro.args]
    fed: set[str] = set()
    for call in root.find_all(nodes.Call):
        if _is_name(call.node, {macro.name}):
            given = [*zip(parameters, call.args, strict=False), *((k.key, k.value) for k in call.kwargs)]
            fed |= {name for name, value in given if _is_content_of(_subject(value), message_names)}
    return any(_is_name(_subject(loop.iter), fed) for loop in macro.find_all(nodes.For))


def _subject(node: nodes.Node | None) -> nodes.Node | None:
    """What is left of `x | filter`, `x is test` and `x[1:]` when filters, tests and slices are taken off."""
    while isinstance(node, (nodes.Filter, nodes.Test)) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    ):
        node = node.node
    return node


def _is_name(node: nodes.Node | None, names: Iterable[str]) -> bool:
    return isinstance(node, nodes.Name) and node.name in names


def _is_content_of(node: nodes.Node | None, message_names: set[str]) -> bool:
    if isinstance(node, nodes.Getattr):
        return node.attr == "content" and _is_name(node.node, message_names)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        return node.arg.value == "content" and _is_name(node.node, message_names)
    return False


# Whether messages take turns as a conversation does.

_MAY_FOLLOW = {
    "": ("system", "developer", "user"),
    "system": ("user",),
    "developer": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant", "user"),
}


def check_turns(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raises ConversationError where the roles do not alternate as a conversation does, or an answer is empty."""
    before = ""
    for number, message in enumerate(messages, 1):
        role = message.get("role")
        if not isinstance(role, str) or role not in _MAY_FOLLOW:
            known = ", ".join(list(_MAY_FOLLOW)[1:])
            raise ConversationError("roles_out_of_order", f"message {number} has the role {role!r}; roles are {known}")
        if role not in _MAY_FOLLOW[before]:
            after = f"after {before}" if before else "at the beginning"
            expected = " or ".join(_MAY_FOLLOW[before])
            said = f"message {number} is from {role} {after}; there must be {expected}"
            raise ConversationError("roles_out_of_order", said)
        if role == "assistant" and not _says_something(message):
            raise ConversationError("empty_answer", f"message {number} is an empty answer")
        if role != "assistant" and message.get("train"):
            raise ConversationError("not_the_assistants", f"message {number} is from {role}; only answers are trained")
        if not isinstance(message.get("train", True), bool):
            raise ConversationError("not_a_conversation", f"message {number}: `train` is neither true nor false")
        before = role
    if before != "assistant":
        raise ConversationError("no_answer", f"ends with a message from {before}" if before else "has no messages")


def _says_something(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    texts = [content] if isinstance(content, str) else content or ()
    texts = [part.get("text") or part.get("thinking") if isinstance(part, Mapping) else part for part in texts]
    return any(str(text).strip() for text in texts if text) or bool(message.get("tool_calls"))
