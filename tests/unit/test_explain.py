"""`rayloom explain`: every key of every kind is found by its path, and its example is one that the spec accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from pydantic import TypeAdapter

from rayloom.cli import main
from rayloom.commands.explain import wishes
from rayloom.commands.shipped import schema_of, uses
from rayloom.kinds import SPECS
from rayloom.specs.base import Spec, field_docs
from rayloom.specs.files.reference import Key, Model, Reference, first_sentence, sample, type_words, unit
from rayloom.specs.files.schema_walk import models_of

KINDS = list(SPECS)


def explained(capfd: pytest.CaptureFixture[str], *path: str, code: int = 0) -> str:
    assert main(["explain", *path]) == code
    said = capfd.readouterr()
    return said.err if code else said.out


def keys_below(reference: Reference, key: Key, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Key, Model]]:
    """Every key of a kind by its path, with the mapping that has it; a search's training job is left to `train`."""
    for model in reference.models(key.schema):
        for inner in model.fields():
            here = (*path, *((model.tag,) if model.tag and path else ()), inner.name)
            yield here, inner, model
            if inner.name != "train":
                yield from keys_below(reference, inner, here)


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_a_kind_is_found_by_its_path(kind: str) -> None:
    reference = Reference(kind, schema_of(kind))
    found = list(keys_below(reference, reference.find(())[0], ()))
    assert len(found) > 3
    for path, key, _ in found:
        (same,) = reference.find(path)
        assert (same.name, same.schema) == (key.name, key.schema), path
        assert type_words(key.schema, reference)


def models(spec: type[Spec], seen: dict[str, type[Spec]]) -> dict[str, type[Spec]]:
    seen[spec.__name__] = spec
    for field in spec.model_fields.values():
        for model in models_of(field.annotation):
            if model.__name__ not in seen:
                models(model, seen)
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_made_from_the_schema_is_one_that_the_spec_accepts(kind: str) -> None:
    reference = Reference(kind, schema_of(kind))
    for model in models(SPECS[kind], {}).values():
        schema = reference.definitions.get(model.__name__, reference.root)
        for name, field in model.model_fields.items():
            key = Key(field.alias or name, schema["properties"].get(field.alias or name, {}))
            example = sample(key, reference)
            if example is not None:
                field_alone: TypeAdapter[object] = TypeAdapter(model.__pydantic_fields__[name].rebuild_annotation())
                field_alone.validate_json(json.dumps(example), strict=True)


def test_a_key_says_its_type_default_meaning_example_and_use(capfd: pytest.CaptureFixture[str]) -> None:
    said = explained(capfd, "train.adapter.rank")
    assert "where type is lora" in said
    assert "whole number, at least 1, at most 512" in said
    assert "rank: 16 (quickstart/finetune.yaml)" in said
    assert "rayloom/train/run.py" in said
    assert explained(capfd, "train.adapter.lora.rank").splitlines()[2:] == said.splitlines()[2:]
    assert "unit     tokens" in explained(capfd, "train.sequence_length_tokens")


def test_a_union_lists_its_variants_and_a_kind_its_keys(capfd: pytest.CaptureFixture[str]) -> None:
    said = explained(capfd, "train.adapter")
    assert all(f"\n  {tag} " in said for tag in ("none", "lora", "prefix", "ia3"))
    assert "must be given" in explained(capfd, "train")
    assert "size_bytes" in explained(capfd, "serve.models.0.engine.kv_cache")
    assert (
        explained(capfd, "serve.models.engine.kv_cache").splitlines()[1:]
        == (explained(capfd, "serve.models.0.engine.kv_cache").splitlines()[1:])
    )
    assert "where type is loguniform" in explained(capfd, "tune.space.learning_rate.low")
    assert "min_words_per_line" in explained(capfd, "clean.domain_rules.web.c4")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("trian", "did you mean train?"),
        ("train.adaptor", "Did you mean adapter?"),
        ("train.adapter.lora.rnk", "Did you mean rank?"),
        ("train.seed.x", "has no keys below it"),
        ("serve.port.0.x", "has no keys below it"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(path: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert said in explained(capfd, path, code=2)


def test_without_a_path_the_kinds_are_told_apart(capfd: pytest.CaptureFixture[str]) -> None:
    said = explained(capfd)
    assert all(f"\n  {kind} " in said for kind in KINDS)
    assert {kind for _, kind, _ in wishes()} == set(KINDS)


def test_uses_are_those_of_the_named_variant() -> None:
    files = {use.file for use in uses("train", ("adapter", "qlora"))} | {
        use.file for use in uses("train", ("adapter", "size"), ("bottleneck",))
    }
    assert files <= {"recipes/compare-methods/bottleneck.yaml"}
    assert next(uses("serve", ("models", "0", "engine", "kv_cache", "size_bytes"))).value == 268435456


class Base(Spec):
    first: int = 1
    """Of the base class."""


class Derived(Base):
    second: int = 2
    """More than
    one line."""
    third: int = 3


def test_descriptions_are_read_from_the_source_with_those_of_base_classes() -> None:
    assert field_docs(Derived) == {"first": "Of the base class.", "second": "More than\none line."}
    assert Derived.model_json_schema()["properties"]["second"]["description"] == "More than\none line."


def test_units_are_those_that_names_carry() -> None:
    number = {"type": "integer"}
    named = {
        "num_layers": "layers", "wait_seconds": "seconds", "rows_per_band": "rows per band", "seed": "",
        "heldout_share": "share of a whole, from 0 to 1", "cpus_per_worker": "CPUs per worker",
    }  # fmt: skip
    assert {name: unit(Key(name, number)) for name in named} == named
    assert unit(Key("num_layers", {"type": "string"})) == ""


def test_a_first_sentence_does_not_end_at_an_abbreviation() -> None:
    assert first_sentence("LoRA (Hu et al. 2021).\nMore.") == "LoRA (Hu et al. 2021)."
    assert first_sentence("Two: a and b. Then c.") == "Two: a and b."
