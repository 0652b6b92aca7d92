"""What the keys of a row or message mean, in every format: read, counted as unknown, or refused; and JSON in its texts.

A value of null, an empty text and an empty list say nothing: tables fill in such values where a row lacks a column.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rayloom.reading.json_array import json_record
from rayloom.reading.records import BadRow
from rayloom.specs.training.training_data import RowProblem
from rayloom.text.conversations.messages import ConversationError

_SURROGATE = re.compile("[\ud800-\udfff]")
TRAIN_MARKS = ("train", "training", "trainable", "loss", "weight", "loss_weight")
"""Say whether an answer is trained: true or 1, false or 0 (of axolotl, OpenAI, Mistral, ms-swift)."""
_WRITTEN_MARKS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
"""How a table without types writes them."""
SYSTEM_KEYS = ("system", "system_prompt", "system_message")
REASONING_KEYS = ("reasoning", "reasoning_content", "thinking")


@dataclass(frozen=True)
class _Meaning:
    """Keys that this package does not read, though leaving them out would change what a row teaches."""

    names: re.Pattern[str]
    why: str
    only_of_conversations: bool


_REFUSED = tuple(
    _Meaning(re.compile(names), why, only_of_conversations)
    for names, why, only_of_conversations in (
        (
            r"(.*_)?(image|picture|photo|video|audio|sound|speech)s?(_(url|path|file|id|token|feature|data|byte|list)s?)?"
            r"|pixel_values|attachments?|media|mm_.*",
            "only text is trained, and without it the text would speak of what is not there",
            False,
        ),
        (
            r"(.*_)?(weight|mask|masked|loss|train|trained|training|trainable|trained_on|supervised?|learn)s?(_.*)?"
            r"|(is_)?(ignored?|skip|skipped|excluded?)(_.*)?|is_target",
            "it looks like a mark of what is trained, which is read under the keys "
            f"{', '.join(TRAIN_MARKS)} of an answer, as true, false, 1 or 0",
            False,
        ),
        (
            r"tools?|tool_(choice|call|calls|use|uses|result|results)|(available_)?functions?|function_(call|calls)",
            "it looks like tools or calls, which are read under `tools` of a row and `tool_calls` of an answer",
            True,
        ),
        (
            r"refusal|thoughts?|thinking(_.*)?|reasoning(_.*)?|chain_of_thought|(.*_)?cot|rationale|tool_plan|history"
            r"|few_shots?|context|prefix|prefill|partial|suffix|documents|files|channel|recipient|enable_thinking"
            r"|system_(text|instructions?)|developer|chat_template(_.*)?",
            "it looks like a part of the conversation that would be missing",
            True,
        ),
    )
)


def says_something(value: Any) -> bool:
    """Whether a value is neither null nor an empty text, list or mapping."""
    if value is None or type(value) is str:
        return bool(value)
    return not (isinstance(value, str | list | tuple | Mapping) and len(value) == 0)


def given(values: Mapping[str, Any], ignored: Collection[str] = ()) -> dict[str, Any]:
    """The keys that have a value, without those that the spec ignores."""
    return {key: value for key, value in values.items() if value is not None and key not in ignored}


def unknown_keys(
    values: Mapping[str, Any], known: Collection[str], where: str = "", *, is_conversation: bool = True
) -> Iterable[str]:
    """The keys that are not read. Raises ConversationError for a key whose name suggests that it matters.

    `where`: what the keys belong to, for messages to people, such as `message 2`.
    """
    for key, value in values.items():
        if key in known or not says_something(value):
            continue
        for meaning in _REFUSED:
            if (is_conversation or not meaning.only_of_conversations) and meaning.names.fullmatch(_plain(str(key))):
                message = f"{where + ' ' if where else ''}has the key `{key}`, which is not read: {meaning.why}"
                raise ConversationError("unsupported_key", message)
        yield str(key)


def _plain(key: str) -> str:
    """The key in one way of writing: `lossMask` and `Loss-Mask` as `loss_mask`."""
    return re.sub(r"[\s-]+|(?<=[a-z0-9])(?=[A-Z])", "_", key.strip()).lower()


def check_is_good(values: Mapping[str, Any], where: str = "") -> None:
    """Raises ConversationError for an answer or a row that is marked as a bad one, which is not to be imitated."""
    for key in ("label", "kto_tag"):
        if values.get(key) is False:
            said = f"{where + ' ' if where else ''}has `{key}: false`: a bad answer, read by data of type preferences"
            raise ConversationError("unsupported_key", f"{said} for kto")


def train_mark(values: Mapping[str, Any], where: str) -> bool | None:
    """Whether the keys of a message mark its answer as trained; None if there is no such key.

    Raises ConversationError for a mark that is neither true nor false, and for marks that contradict each other.
    """
    if values.keys().isdisjoint(TRAIN_MARKS):
        return None
    marks = {key: _mark(values[key], key, where) for key in TRAIN_MARKS if values.get(key) is not None}
    if len(set(marks.values())) > 1:
        named = " and ".join(f"`{key}: {values[key]}`" for key in marks)
        raise ConversationError("bad_mark", f"{where} has {named}, which contradict each other")
    return next(iter(marks.values()), None)


def _mark(value: Any, key: str, where: str) -> bool:
    try:
        return yes_or_no(value, key)
    except ConversationError as error:
        raise ConversationError("bad_mark", f"{where}: {error}: no share is trained") from None


def yes_or_no(value: Any, key: str) -> bool:
    """The value of a key that is true or false, 1 or 0, also as text. Raises ConversationError for any other."""
    if isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1)):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _WRITTEN_MARKS:
        return _WRITTEN_MARKS[value.strip().lower()]
    raise ConversationError("bad_mark", f"`{key}` is {value!r:.60}, which is neither true nor false (nor 1 or 0)")


def only_value(values: Mapping[str, Any], keys: Iterable[str], where: str) -> Any:
    """The value of a field that can have several names; None if no name has a value.

    Raises ConversationError if two names have different values.
    """
    given_values = {key: values[key] for key in keys if key in values and says_something(values[key])}
    if len(given_values) < 2:
        return next(iter(given_values.values()), None)
    first = next(iter(given_values.values()))
    if any(value != first for value in given_values.values()):
        raise ConversationError("not_a_conversation", f"{where} has different values in {' and '.join(given_values)}")
    return first


# -- characters and JSON of texts --------------------------------------------------------------------------------------


def check_characters(text: str) -> None:
    """Raises ConversationError where the text has half of a pair of surrogates, which JSON can and UTF-8 cannot say."""
    if not text.isascii() and _SURROGATE.search(text):
        raise ConversationError("not_text", "has half a character (a lone surrogate such as \\ud83d)")


def value_of_json(text: str, what: str, problem: RowProblem = "bad_tool") -> Any:
    """The value that the text says in JSON, with the limits that rows of files have.

    Raises ConversationError, with `what` for the subject of its sentence, where it is no such JSON.
    """
    found = json_record(0, text)
    if isinstance(found, BadRow):
        raise ConversationError(problem, f"{what} cannot be read as JSON ({found})")
    _check_all_characters(found.values)
    return found.values


def _check_all_characters(value: Any) -> None:
    if isinstance(value, str):
        check_characters(value)
    elif isinstance(value, Mapping):
        _check_all_characters([*value, *value.values()])
    elif isinstance(value, list):
        for item in value:
            _check_all_characters(item)
