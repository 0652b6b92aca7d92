"""References, fingerprints and defaults of every kind's spec."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import pytest
from pydantic import ValidationError
from support.golden import classes_in, specs_below

from rayloom.kinds import KINDS, SPECS
from rayloom.specs.base import (
    ArtifactReference,
    JobSpec,
    ModelRef,
    Spec,
    TunedRef,
    fingerprinted,
    is_variant_name,
    references,
)
from rayloom.specs.ingest import ImportSpec
from rayloom.specs.train import TrainSpec


class Part(Spec):
    model: ModelRef
    note: Annotated[str, "unfingerprinted"] = ""
    size: int = 1


class Sort(Spec):
    type: Literal["sort"] = "sort"
    size: int = 2


class WholeSpec(JobSpec):
    kind: Literal["whole"]
    base: ModelRef | None = None
    parts: tuple[Part, ...] = ()
    by_name: dict[str, TunedRef] = {}  # noqa: RUF012 (pydantic copies it)
    text: str = "artifact:not-a-reference"


WHOLE = WholeSpec(
    kind="whole",
    name="w",
    base="artifact:one",
    parts=(Part(model="hf://a/b@main", note="x"), Part(model="./folder")),
    by_name={"x": "artifact:two@0123456789ab"},
)


def test_references_are_found_at_every_depth_with_what_they_may_hold() -> None:
    assert list(references(WHOLE)) == [
        ArtifactReference("base", "artifact:one", ("model",)),
        ArtifactReference("parts.0.model", "hf://a/b@main", ("model",)),
        ArtifactReference("parts.1.model", "./folder", ("model",)),
        ArtifactReference("by_name.x", "artifact:two@0123456789ab", ("model", "adapter")),
    ]


@pytest.mark.parametrize("text", ["artifact:a", "artifact:a.b-c_d@0123ab", "hf://a/b", "hf://a/b@v1/x", "/x", "~/x"])
def test_references_that_can_be_followed_are_taken(text: str) -> None:
    assert Part(model=text).model == text


@pytest.mark.parametrize("text", ["", "a", "artifact:", "artifact:A", "artifact:a@xyz", "hf://a", "hf://a/b/c"])
def test_other_references_are_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(ValidationError, match="must be"):
        Part(model=text)


def test_the_mark_counts_wherever_it_stands_in_an_annotation() -> None:
    class Marked(Spec):
        within: Annotated[int, "unfingerprinted"] | None = None
        around: Annotated[int | None, "unfingerprinted"] = None

    assert fingerprinted(Marked(within=3, around=3)) == {}


def test_what_cannot_change_the_result_is_not_fingerprinted() -> None:
    plain = fingerprinted(WHOLE)
    assert "description" not in plain
    assert plain["parts"] == [{"model": "hf://a/b@main"}, {"model": "./folder"}]
    assert fingerprinted(WHOLE, with_defaults=True)["parts"][0] == {"model": "hf://a/b@main", "size": 1}
    assert json.loads(json.dumps(plain)) == plain
    assert fingerprinted(WHOLE.model_copy(update={"description": "other"})) == plain
    assert fingerprinted(WHOLE.model_copy(update={"text": "other"})) != plain


class LaterSpec(WholeSpec):
    """The same kind of job after an upgrade that brought a field."""

    smoothing: float = 0.0
    by_kind: Sort = Sort()


def test_a_field_that_is_added_with_a_default_changes_no_fingerprint() -> None:
    later = LaterSpec.model_validate(WHOLE.model_dump())
    assert fingerprinted(later) == fingerprinted(WHOLE)
    assert fingerprinted(later.model_copy(update={"smoothing": 0.1})) != fingerprinted(WHOLE)
    deeper = later.model_copy(update={"by_kind": Sort(size=3)})
    assert fingerprinted(deeper)["by_kind"] == {"type": "sort", "size": 3}


@pytest.mark.parametrize("kind", list(SPECS))
def test_variants_stay_apart_without_their_defaults(kind: str) -> None:
    """Two classes that one field may hold must differ in a field that a fingerprint always has."""
    for spec in specs_below(SPECS[kind]):
        for field in spec.model_fields.values():
            variants = [c for c in classes_in(field.annotation) if issubclass(c, Spec)]
            always = [{n for n, f in c.model_fields.items() if f.is_required() or is_variant_name(f)} for c in variants]
            names = [str(c.model_fields["type"].annotation) for c in variants if "type" in c.model_fields]
            assert len(variants) < 2 or len(set(names)) == len(variants) or all(always), (spec, field)


def test_a_spec_never_changes() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        WHOLE.name = "other"


@pytest.mark.parametrize("kind", list(SPECS))
def test_every_kind_of_job_has_its_own_literal_kind(kind: str) -> None:
    assert SPECS[kind].model_fields["kind"].annotation == Literal[kind]


@pytest.mark.parametrize("kind", list(SPECS))
def test_every_class_of_a_spec_has_a_docstring_for_editors_to_show(kind: str) -> None:
    schema = SPECS[kind].model_json_schema()
    for name, definition in {kind: schema, **schema.get("$defs", {})}.items():
        assert definition.get("description"), f"{name} has no docstring"


def test_a_spec_that_was_written_to_a_manifest_can_be_read_back() -> None:
    spec = TrainSpec.model_validate(
        {
            "kind": "train", "name": "x", "base": "artifact:m", "learning_rate": 1e-3, "global_batch_tokens": 1024,
            "num_steps": 3, "data": {"type": "corpus", "corpus": "artifact:c"}, "adapter": {"type": "lora"},
        }
    )  # fmt: skip
    assert TrainSpec.model_validate(json.loads(spec.model_dump_json(by_alias=True))) == spec


def test_versions_of_stages_are_positive() -> None:
    assert all(kind.version >= 1 for kind in KINDS.values())


def test_a_digest_of_the_wrong_form_is_refused() -> None:
    with pytest.raises(ValidationError, match="sha256"):
        ImportSpec.model_validate(
            {"kind": "import", "name": "x", "licence": "MIT", "content": {"type": "dataset"},
             "source": {"type": "package", "package": "p", "version": "1", "sha256": "abc"}}
        )  # fmt: skip
