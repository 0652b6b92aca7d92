"""Messages are edited as the server edits them. (tests/integration/test_server_prompts.py asks the server itself.)"""

from __future__ import annotations

import pytest

from rayloom.text.conversations.messages import ConversationError, as_served, loops_over_parts, tools_as_served

PLAIN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
PARTS = "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}"
ALIASED = (
    "{% set rest = messages[1:] %}{% for m in rest %}{% for p in m.content | list %}{{ p }}{% endfor %}{% endfor %}"
)
MACRO = (
    "{% macro show(c) %}{% for part in c %}{{ part.text }}{% endfor %}{% endmacro %}"
    "{% for message in messages %}{{ show(message.content) }}{% endfor %}"
)
OTHER_LOOP = "{% for m in messages %}{% for call in m.tool_calls %}{{ call }}{% endfor %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "wants_parts"),
    [(PLAIN, False), (PARTS, True), (ALIASED, True), (MACRO, True), (OTHER_LOOP, False)],
)
def test_templates_that_loop_over_content_are_known(template: str, wants_parts: bool) -> None:
    assert loops_over_parts(template) is wants_parts


def test_content_is_text_or_parts_as_the_template_wants_it() -> None:
    messages = [
        {"role": "user", "content": ["one", {"type": "text", "text": "two"}]},
        {"role": "user", "content": None},
    ]
    assert [m["content"] for m in as_served(messages, PLAIN)] == ["one\ntwo", ""]
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert [m["content"] for m in as_served(messages, PARTS)] == [parts, []]


def test_developer_messages_join_the_system_message_unless_the_template_knows_them() -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "developer", "content": "Be short."},
    ]
    assert as_served(messages, PLAIN) == [
        {"role": "system", "content": "Be kind.\n\nBe short."},
        {"role": "user", "content": "Hi"},
    ]
    assert [m["role"] for m in as_served(messages, PLAIN + "{# 'developer' #}")] == ["system", "user", "developer"]


def test_tool_calls_have_their_arguments_as_a_mapping() -> None:
    call = {"type": "function", "id": "a", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    (message,) = as_served([{"role": "assistant", "content": None, "tool_calls": [call]}], PLAIN)
    assert message["tool_calls"] == [
        {"id": "a", "function": {"arguments": {"city": "Bern"}, "name": "weather"}, "type": "function"}
    ]
    (without,) = as_served([{"role": "assistant", "content": "x", "tool_calls": []}], PLAIN)
    assert "tool_calls" not in without


def test_tools_have_the_servers_keys() -> None:
    bare = {"name": "weather", "parameters": {"type": "object"}, "comment": "dropped"}
    wanted = [
        {"type": "function", "function": {"name": "weather", "description": None, "parameters": {"type": "object"}}}
    ]
    assert tools_as_served([bare]) == tools_as_served([{"type": "function", "function": bare}]) == wanted
    assert tools_as_served([]) is None


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "only text is supported"),
        ({"role": "user", "content": 3}, "content must be text"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "are not JSON"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}, "not a mapping"),
        ({"role": "assistant", "tool_calls": ["f"]}, "no function name"),
    ],
)
def test_messages_that_cannot_be_rendered_are_refused(message: dict[str, object], problem: str) -> None:
    with pytest.raises(ConversationError, match=problem):
        as_served([message], PLAIN)
