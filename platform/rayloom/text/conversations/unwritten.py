"""What a chat template does not write: fields of a conversation that neither model nor server would ever see.

A field is written if the rendering changes when the field is taken away. For the texts of questions this is tried once
for messages of the same roles and keys; after that a long text only has to stand in the rendering.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rayloom.text.conversations.chat_template import ChatTemplates
from rayloom.text.conversations.messages import ConversationError

_SURE_CHARACTERS = 24
"""A text of so many characters does not stand in a rendering by chance."""
_EXTRA_KEYS = ("reasoning", "reasoning_content", "name", "tools")
_NO_ARGUMENTS: tuple[Any, ...] = (None, "", "{}", {})

Messages = Sequence[Mapping[str, Any]]
Changes = Callable[[Messages], bool]
"""Whether the rendering is another one with these messages."""


class WrittenFields:
    """Checks whole conversations against the templates of one model."""

    def __init__(self, templates: ChatTemplates) -> None:
        self._templates = templates
        self._known: set[tuple[Any, ...]] = set()

    def check(
        self,
        messages: Messages,
        tools: Messages,
        kwargs: Mapping[str, Any],
        answers: Sequence[int],
        turns: Sequence[tuple[str, str]],
    ) -> None:
        """Raises ConversationError where a message or a tool is not written as a whole.

        `answers`: the places of the answers; `turns`: for each the rendering up to it, and what the template adds.
        """
        shapes = tuple((message["role"], *sorted(key for key in message if message[key])) for message in messages)
        seen = 0
        for index, (prompt, turn) in zip(answers, turns, strict=True):
            self._check_turn(messages[: index + 1], tools, kwargs, prompt, turn, seen, shapes[: index + 1])
            seen = index + 1
        if tools:
            self._check_tools(messages, tools, kwargs, "".join(turns[-1]))

    def _check_turn(
        self,
        messages: Messages,
        tools: Messages,
        kwargs: Mapping[str, Any],
        prompt: str,
        turn: str,
        seen: int,
        shape: tuple[Any, ...],
    ) -> None:
        template = self._templates.chosen(tools)

        def changes(other: Messages) -> bool:
            return self._changes(prompt + turn, other, tools, kwargs, template)

        if any(text not in turn and _letters(text) not in _letters(turn) for text in _texts(messages[-1])):
            raise _unwritten(f"message {len(messages)}: the chat template does not write its text as it stands")
        if messages[-1].get("tool_calls"):
            _check_calls(messages, changes)
        for place in range(seen, len(messages)):
            for key in _extra_keys(messages[place]):
                if not changes(_without(messages, place, key)):
                    raise _unwritten(f"message {place + 1}: the chat template does not write `{key}`")
        self._check_context(messages, template, prompt, seen, changes, shape)

    def _check_context(
        self, messages: Messages, template: str, prompt: str, seen: int, changes: Changes, shape: tuple[Any, ...]
    ) -> None:
        for place in range(seen, len(messages) - 1):
            message, key = messages[place], (template, place, shape)
            texts = _texts(message)
            if key in self._known and all(_is_surely_in(text, prompt) for text in texts):
                continue
            if texts and not changes([*messages[:place], {**message, "content": ""}, *messages[place + 1 :]]):
                said = f"message {place + 1}: the chat template does not write what the {message['role']} says"
                raise _unwritten(said)
            self._known.add(key)

    def _check_tools(self, messages: Messages, tools: Messages, kwargs: Mapping[str, Any], whole: str) -> None:
        template = self._templates.chosen(tools)
        if not self._changes(whole, messages, (), kwargs, template):
            raise _unwritten("the chat template does not write `tools`")
        for number in range(len(tools)):
            others = [*tools[:number], *tools[number + 1 :]]
            if others and not self._changes(whole, messages, others, kwargs, template):
                raise _unwritten(f"the chat template does not write tool {number + 1} of `tools`")

    def _changes(
        self, whole: str, messages: Messages, tools: Messages, kwargs: Mapping[str, Any], template: str
    ) -> bool:
        try:
            return whole != self._templates.text(messages, tools, kwargs, open_answer=False, template=template)
        except ConversationError:
            return True


def _check_calls(messages: Messages, changes: Changes) -> None:
    """Raises ConversationError where a call of the last message, or its arguments, are not written."""
    answer, calls = messages[-1], messages[-1]["tool_calls"]
    for place, call in enumerate(calls):

        def changes_with(*instead: Mapping[str, Any], place: int = place) -> bool:
            return changes([*messages[:-1], {**answer, "tool_calls": [*calls[:place], *instead, *calls[place + 1 :]]}])

        if not changes_with():
            raise _unwritten(f"message {len(messages)}: the chat template does not write `tool_calls`")
        bare = {**call, "function": {**call["function"], "arguments": {}}}
        if call["function"].get("arguments") not in _NO_ARGUMENTS and not changes_with(bare):
            raise _unwritten(f"message {len(messages)}: the chat template does not write the arguments of a call")


def _extra_keys(message: Mapping[str, Any]) -> list[str]:
    # A tool's name only repeats that of the call which it answers.
    return [key for key in _EXTRA_KEYS if message.get(key) and (key, message["role"]) != ("name", "tool")]


def _without(messages: Messages, place: int, key: str) -> list[Mapping[str, Any]]:
    # The server gives a template the reasoning under both of its names.
    gone = ("reasoning", "reasoning_content") if key.startswith("reasoning") else (key,)
    message = {name: value for name, value in messages[place].items() if name not in gone}
    return [*messages[:place], message, *messages[place + 1 :]]


def _texts(message: Mapping[str, Any]) -> list[str]:
    content = message.get("content")
    if isinstance(content, str):
        return [content] if content.strip() else []
    parts = [part if isinstance(part, str) else part.get(part.get("type"), part.get("text")) for part in content or ()]
    return [str(part) for part in parts if part]


def _is_surely_in(text: str, rendering: str) -> bool:
    # Of a short text the shape of the conversation alone decides.
    return len(text) < _SURE_CHARACTERS or text.strip() in rendering or _letters(text) in _letters(rendering)


def _letters(text: str) -> str:
    """Without white space, which templates trim and put in."""
    return "".join(text.split())


def _unwritten(said: str) -> ConversationError:
    return ConversationError("unrenderable", f"{said}, so that it would be lost")
