"""Rows of judged answers read as a common prompt and the turns behind it, in each of the formats that a spec names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayloom.text.conversations.formats import messages_of, need, recognised, row_values, with_row_keys
from rayloom.text.conversations.messages import ConversationError, Message
from rayloom.text.conversations.render import Conversation
from rayloom.text.conversations.row_messages import read_messages

_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
"""How the texts of Anthropic's HH data name who speaks."""


@dataclass(frozen=True)
class JudgedRow:
    """A conversation up to where the answers part, and the turns that follow there.

    Only the last message of `better` and of `worse` is judged; what stands before it is its context.
    """

    origin: str
    prompt: tuple[Mapping[str, Any], ...]
    better: tuple[Mapping[str, Any], ...]
    worse: tuple[Mapping[str, Any], ...] | None
    """None where one answer was judged alone."""
    is_good: bool = True
    tools: tuple[Mapping[str, Any], ...] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    margin: float = 0.0
    """By how much the better answer should lead, where the row says so."""
    unknown: tuple[str, ...] = ()
    """Keys of the row and of its messages that have no meaning."""

    @property
    def answers(self) -> tuple[tuple[Mapping[str, Any], ...], ...]:
        """`better`, and `worse` if there is one."""
        return (self.better,) if self.worse is None else (self.better, self.worse)

    def check(self, is_paired: bool) -> None:
        """Raises ConversationError where the method needs another kind of row, or nothing can be learned from it."""
        if is_paired and self.worse is None:
            raise ConversationError("missing_column", "has one answer; only kto learns from that")
        if not is_paired and self.worse is not None:
            raise ConversationError("missing_column", "has two answers; kto wants messages_label")
        if self.better == self.worse:
            raise ConversationError("same_answers", "both answers are the same")
        for turns in (self.better, self.worse or self.better):
            if turns[-1].get("train") is False:
                raise ConversationError("no_trained_token", "the judged answer is marked as not to be trained")


_COLUMNS = {
    "sharegpt": ("conversations", "chosen", "rejected"),
    "prompt_chosen_rejected": ("chosen", "rejected"),
    "messages_label": ("label",),
}
"""The columns by which a row's format is known."""


def judged_row(
    row: Any, format_name: str | None, origin: str, ignored: Collection[str] = (), has_margin: bool = False
) -> JudgedRow:
    """One row; `has_margin`: whether its `margin` means something. Raises ConversationError saying what it lacks."""
    values = row_values(row, ignored, {})
    unknown: list[str] = []
    format_name = format_name or recognised(values, _COLUMNS)
    if format_name == "messages_label":
        return _single(values, origin, ignored, unknown)
    if format_name == "sharegpt":
        need(values, "conversations", "chosen", "rejected")
        prompt = read_messages(values["conversations"], "conversations", ignored, unknown)
        columns = ("conversations", "chosen", "rejected")
        ends = [messages_of(values, key, "assistant", ignored, unknown, len(prompt) + 1) for key in columns[1:]]
    else:
        need(values, "chosen", "rejected")
        columns = ("prompt", "chosen", "rejected")
        prompt, ends = _prompt_and_ends(values, ignored, unknown)
    shared, ends = _parted(prompt, ends)
    read = [with_row_keys(values, columns, [*shared, *end], origin, []) for end in ends]
    with_row_keys(values, (*columns, "margin") if has_margin else columns, [], origin, unknown)
    length = len(read[0].messages) - len(ends[0])
    better, worse = (_answered(one, length) for one in read)
    first = read[0]
    return JudgedRow(
        origin, first.messages[:length], better, worse, True, first.tools, first.template_kwargs,
        _margin(values) if has_margin else 0.0, tuple(unknown),
    )  # fmt: skip


def _margin(values: Mapping[str, Any]) -> float:
    margin = values.get("margin")
    if margin is None:
        return 0.0
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin < float("inf"):
        raise ConversationError("bad_mark", f"`margin` is not a number from 0, but {margin!r}")
    return float(margin)


def _single(values: dict[str, Any], origin: str, ignored: Collection[str], unknown: list[str]) -> JudgedRow:
    if "messages" in values or "prompt" not in values:
        columns: tuple[str, ...] = ("messages", "label")
        need(values, *columns)
        messages = read_messages(values["messages"], "messages", ignored, unknown)
    else:
        columns = ("prompt", "completion", "label")
        need(values, *columns)
        asked = messages_of(values, "prompt", "user", ignored, unknown)
        messages = [*asked, *messages_of(values, "completion", "assistant", ignored, unknown, len(asked) + 1)]
    if not isinstance(values["label"], bool):
        raise ConversationError("missing_column", f"`label` is not true or false but {values['label']!r}")
    read = with_row_keys(values, columns, messages, origin, unknown)
    if not read.messages or read.messages[-1]["role"] != "assistant":
        raise ConversationError("no_answer", f"`{columns[-2]}` does not end with an answer")
    prompt, answer = read.messages[:-1], read.messages[-1:]
    return JudgedRow(
        origin, prompt, answer, None, values["label"], read.tools, read.template_kwargs, unknown=read.unknown_keys
    )


def _prompt_and_ends(
    values: dict[str, Any], ignored: Collection[str], unknown: list[str]
) -> tuple[list[Message], list[list[Message]]]:
    """The prompt that the row names, and what stands behind it on each side, which may repeat the prompt."""
    texts = [values[key] for key in ("chosen", "rejected")]
    if "prompt" not in values and all(isinstance(text, str) for text in texts):
        return [], [_hh_turns(text) for text in texts]
    prompt = messages_of(values, "prompt", "user", ignored, unknown) if "prompt" in values else []
    ends = [messages_of(values, key, "assistant", ignored, unknown, len(prompt) + 1) for key in ("chosen", "rejected")]
    if prompt and prompt[-1]["role"] != "assistant" and any(_begins_anew(end) for end in ends):
        _check_repeated(prompt, ends)
        return [], ends
    return prompt, ends


def _begins_anew(turns: Sequence[Message]) -> bool:
    return bool(turns) and turns[0]["role"] in ("system", "developer", "user")


def _check_repeated(prompt: Sequence[Message], ends: Sequence[Sequence[Message]]) -> None:
    """Raises ConversationError unless both conversations begin with the prompt, as in UltraFeedback's form."""
    asked = [message for message in prompt if message["role"] not in ("system", "developer")]
    for column, end in zip(("chosen", "rejected"), ends, strict=True):
        said = [message for message in end if message["role"] not in ("system", "developer")]
        if said[: len(asked)] != asked or (len(asked) < len(prompt) and list(prompt) != list(end[: len(prompt)])):
            what = f"`prompt` is followed by a conversation under `{column}` that does not begin with the same messages"
            raise ConversationError("roles_out_of_order", what)


def _parted(prompt: list[Message], ends: list[list[Message]]) -> tuple[list[Message], list[list[Message]]]:
    """The prompt with all messages in which both sides agree, and what is left of them: at least a last answer."""
    if not all(ends):
        raise ConversationError("no_answer", "has no answer under `chosen` or `rejected`")
    most, same = min(len(end) for end in ends) - 1, 0
    while same < most and ends[0][same] == ends[1][same]:
        same += 1
    if not prompt and not same:
        said = "has no `prompt`, and `chosen` and `rejected` do not begin with the same message"
        raise ConversationError("missing_column", said)
    return [*prompt, *ends[0][:same]], [end[same:] for end in ends]


def _answered(conversation: Conversation, length: int) -> tuple[Mapping[str, Any], ...]:
    turns = tuple(dict(message) for message in conversation.messages[length:])
    if turns[-1]["role"] != "assistant":
        raise ConversationError("no_answer", f"a judged conversation ends with a message from {turns[-1]['role']}")
    return turns


def _hh_turns(text: str) -> list[Message]:
    """A text in which `Human:` and `Assistant:` take turns."""
    pieces = _HH_TURN.split(text)
    if len(pieces) < 3 or pieces[0].strip():
        said = "has no `prompt`, and its texts are no turns of `Human:` and `Assistant:` either"
        raise ConversationError("missing_column", said)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(pieces[1::2], pieces[2::2], strict=True)]
