"""Whether messages take turns as a conversation does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayloom.text.conversations.messages import ConversationError

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
