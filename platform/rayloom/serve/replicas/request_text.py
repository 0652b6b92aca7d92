"""The text of a request, by which requests that begin alike are recognised."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any


class RequestBody(bytes):
    """The body of a request with its text as `prompt`, where Ray's prefix router looks for it; sent as plain bytes."""

    @cached_property
    def prompt(self) -> str:
        return text_of(self)

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return bytes, (bytes(self),)


def text_of(body: bytes) -> str:
    """What the model reads, in order; empty where that cannot be told, and such a request goes to any replica."""
    try:
        request = json.loads(body)
    except ValueError:
        return ""
    messages = request.get("messages") if isinstance(request, dict) else None
    if isinstance(messages, list):
        return "\n".join(_content(message) for message in messages)
    prompt = request.get("prompt") if isinstance(request, dict) else None
    return prompt if isinstance(prompt, str) else ""


def _content(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else json.dumps(content)
