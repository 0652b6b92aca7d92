"""The text of a request, by which requests that begin alike are recognised."""

from __future__ import annotations

import json
from typing import Any


def text_of(body: bytes) -> str:
    """What the model reads, in order; empty where that cannot be told, and such a request goes anywhere."""
    try:
        asked = json.loads(body)
    except ValueError:
        return ""
    messages = asked.get("messages") if isinstance(asked, dict) else None
    if isinstance(messages, list):
        return "\n".join(_said(message) for message in messages)
    prompt = asked.get("prompt") if isinstance(asked, dict) else None
    return prompt if isinstance(prompt, str) else ""


def _said(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else json.dumps(content)
