"""Rewards for the form of an answer: JSON by a schema, length, sections, and language."""

from __future__ import annotations

import json
import re
from typing import Any

from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from rayloom.errors import InputError
from rayloom.rewards.answer import CannotJudgeError, WrittenAnswer
from rayloom.rewards.texts import field_of
from rayloom.specs.training.rewards import FormatReward, JsonSchemaReward, LanguageReward, LengthReward
from rayloom.text.language import identified

_FENCED = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_LONGEST_SAMPLE_CHARACTERS = 1500


def fits_schema(spec: JsonSchemaReward, answer: WrittenAnswer) -> float:
    schema = spec.valid_by if spec.valid_by is not None else _schema_of(answer, str(spec.field))
    try:
        said = json.loads(last_block(answer.text))
    except (ValueError, RecursionError):
        return 0.0
    try:
        # Without a registry of its own, jsonschema fetches what `$ref` names from the network.
        validator_for(schema)(schema, registry=Registry()).validate(said)
    except ValidationError:
        return 0.0
    except (SchemaError, Unresolvable, RecursionError) as error:
        raise CannotJudgeError("bad_schema", str(error).splitlines()[0]) from None
    return 1.0


def check_schema(spec: JsonSchemaReward) -> None:
    """Raises InputError if the job's schema is none."""
    if spec.valid_by is None:
        return
    try:
        validator_for(spec.valid_by).check_schema(spec.valid_by)
    except SchemaError as error:
        raise InputError(f"The schema of a reward is none: {error.message}", fix="Correct schema.") from error


def _schema_of(answer: WrittenAnswer, field: str) -> dict[str, Any]:
    found = field_of(answer, field)
    try:
        schema = json.loads(found) if isinstance(found, str) else found
        validator_for(schema).check_schema(schema)
    except (ValueError, TypeError, AttributeError, SchemaError) as error:
        raise CannotJudgeError("bad_schema", f"{field}: {str(error).splitlines()[0]}") from None
    return dict(schema)


def last_block(text: str) -> str:
    """The content of the text's last fenced block; the whole text if it has none."""
    blocks = _FENCED.findall(text)
    return str(blocks[-1] if blocks else text).strip()


def length(spec: LengthReward, answer: WrittenAnswer) -> float:
    size = len(answer.text.split() if spec.unit == "words" else answer.text)
    outside = max(spec.at_least - size, 0 if spec.at_most is None else size - spec.at_most, 0)
    return max(0.0, 1 - outside / spec.slack) if spec.slack else float(not outside)


def has_sections(spec: FormatReward, answer: WrittenAnswer) -> float:
    marks = [mark for tag in spec.tags for mark in (f"<{tag}>", f"</{tag}>")]
    if any(answer.text.count(mark) != 1 for mark in marks):
        return 0.0
    pattern = r"\s*".join(f"<{tag}>.*</{tag}>" for tag in spec.tags)
    return float(re.fullmatch(pattern, answer.text.strip(), re.DOTALL) is not None)


def is_in_language(spec: LanguageReward, answer: WrittenAnswer) -> float:
    return float(identified(answer.text, _LONGEST_SAMPLE_CHARACTERS)[0] == spec.language)
