"""Job files: every problem of a file at once, each with its place, path, plain rule and value."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

import pytest
from pydantic import Field, model_validator

from rayloom.errors import InputError, SpecError
from rayloom.specs.base import JobSpec, Name, Spec
from rayloom.specs.files.document import parse
from rayloom.specs.files.load import load, validate


class Round(Spec):
    type: Literal["round"]
    radius: Annotated[float, Field(gt=0)] = 1.0


class Square(Spec):
    type: Literal["square"]
    side: Annotated[int, Field(ge=1, le=9)] = 1
    corners: tuple[Name, ...] | Literal["all"] = "all"

    @model_validator(mode="after")
    def _corners_fit(self) -> Self:
        if self.corners != "all" and len(self.corners) > self.side:
            raise ValueError("more corners than sides")
        return self


class Hole(Spec):
    at: Name
    depth: Annotated[int, Field(ge=1)] = 1


class CutSpec(JobSpec):
    kind: Literal["cut"]
    shape: Annotated[Round | Square, Field(discriminator="type")]
    holes: Annotated[tuple[Hole, ...], Field(min_length=1)] | None = None
    tools: Annotated[tuple[str, ...], Field(min_length=1)] = ("saw",)
    labels: dict[str, str] = Field(default_factory=dict)
    by_size: dict[Annotated[int, Field(ge=2, le=4)], float] = Field(default_factory=dict)
    by_speed: dict[Literal["slow", "fast"], float] = Field(default_factory=dict)
    speed: Literal["slow", "fast"] = "slow"
    first: int = 0
    last: int = 10
    is_dry: bool = False

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.last < self.first:
            raise ValueError("last is before first")
        return self

    @model_validator(mode="after")
    def _wet(self) -> Self:
        if self.is_dry and self.speed == "fast":
            raise ValueError("fast cutting cannot be dry")
        return self


KINDS = {"cut": CutSpec}


def problems(text: str, *overrides: str) -> list[str]:
    document = parse(text, "job.yaml")
    for override in overrides:
        document.set(override)
    with pytest.raises(SpecError) as caught:
        validate(document, KINDS)
    return list(caught.value.problems)


GOOD = "kind: cut\nname: a\nshape: {type: square}\n"


def test_a_right_file_gives_its_spec() -> None:
    text = GOOD.replace("{type: square}", "{type: square, side: 2, corners: [x, y]}") + "labels: {a: b}\n"
    text += "by_size: {2: 1.5}\n"
    spec = validate(parse(text, "job.yaml"), KINDS)
    assert isinstance(spec, CutSpec)
    assert spec.shape == Square(type="square", side=2, corners=("x", "y"))
    assert spec.labels == {"a": "b"}
    assert spec.by_size == {2: 1.5}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("first: 1.5", "first: must be a whole number (it is 1.5)"),
        ("first: '1'", "first: must be a whole number (it is '1')"),
        ("first: true", "first: must be a whole number (it is true)"),
        ("first:", "first: must be a whole number (it is empty)"),
        ("is_dry: yes", "is_dry: must be true or false (it is 'yes')"),
        ("description: 1.10", "description: must be text: put it in quotes (it is 1.1)"),
        ("description: [a]", "description: must be text"),
        ("labels: {a: 1}", "labels.a: must be text: put it in quotes (it is 1)"),
        ("by_size: {9: 1.5}", "by_size.9: must be at most 4 (it is '9')"),
        ("by_size: {x: 1.5}", "by_size.x: must be a whole number (it is 'x')"),
        ("by_size: {2: x}", "by_size.2: must be a number (it is 'x')"),
        ("by_speed: {fats: 1}", "by_speed.fats: must be slow or fast (it is 'fats')"),
        ("labels: x", "labels: must be a mapping of keys to values (it is 'x')"),
        ("speed: fasst", "speed: must be slow or fast; did you mean fast? (it is 'fasst')"),
        ("speed: 3", "speed: must be slow or fast (it is 3)"),
        ("tools: saw", "tools: must be a list (it is 'saw')"),
        ("tools: []", "tools: must have at least 1 entry"),
        ("tools: [1]", "tools.0: must be text: put it in quotes (it is 1)"),
        ("holes: [{at: x, depth: 0}]", "holes.0.depth: must be at least 1 (it is 0)"),
        ("holes: [{depth: 1}]", "holes.0.at: this key is missing"),
        ("holes: [3]", "holes.0: must be a mapping of keys to values (it is 3)"),
        ("toolz: [a]", "toolz: unknown key; did you mean tools?"),
        ("zzz: 1", "zzz: unknown key; the keys here are kind, name, description, shape, holes, tools, labels, "
         "by_size, by_speed, speed, first, last and more"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_rule_and_value(line: str, problem: str) -> None:
    assert problems(GOOD + line) == [f"job.yaml:4  {problem}"]


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ("{}", "shape.type: this key is missing; it must be round or square"),
        ("{type: squar}", "shape.type: must be round or square; did you mean square? (it is 'squar')"),
        ("{type: [1]}", "shape.type: must be round or square"),
        ("squarish", "shape: must be a mapping of keys to values (it is 'squarish')"),
        ("square", "shape: must be a mapping of keys to values: write {type: square} (it is 'square')"),
        ("{type: round, side: 3}", "shape.side: unknown key where type is round; the keys here are type, radius"),
        ("{type: square, sides: 3}", "shape.sides: unknown key where type is square; did you mean side?"),
        ("{type: square, side: 10}", "shape.side: must be at most 9 (it is 10)"),
        ("{type: round, radius: 0}", "shape.radius: must be more than 0 (it is 0)"),
        ("{type: round, radius: .inf}", "shape.radius: must be a finite number (it is inf)"),
        ("{type: square, corners: 3}", "shape.corners: must be a list, or must be all (it is 3)"),
        ("{type: square, corners: [a, 2]}", "shape.corners.1: must be text: put it in quotes (it is 2)"),
        ("{type: square, corners: [a, b]}", "shape: more corners than sides"),
        (
            "{type: square, corners: [A]}",
            "shape.corners.0: must be lower-case letters, digits, `.`, `_` or `-`, beginning with a letter or digit, "
            "at most 63 of them (it is 'A')",
        ),
    ],
)
def test_a_variant_of_a_union_is_judged_by_its_own_rules(shape: str, problem: str) -> None:
    assert problems(GOOD.replace("{type: square}", shape)) == [f"job.yaml:3  {problem}"]


def test_a_tag_that_is_also_a_key_does_not_confuse_the_path() -> None:
    class Inner(Spec):
        type: Literal["inner"]
        inner: Name

    class Outer(JobSpec):
        kind: Literal["outer"]
        data: Annotated[Inner | Round, Field(discriminator="type")]

    with pytest.raises(SpecError) as caught:
        validate(parse("kind: outer\nname: a\ndata: {type: inner, inner: x, foo: 1}", "job.yaml"), {"outer": Outer})
    assert caught.value.problems == (
        "job.yaml:3  data.foo: unknown key where type is inner; the keys here are type, inner",
    )


def test_all_problems_come_at_once_in_the_order_of_the_file() -> None:
    text = "shape:\n  type: square\n  side: 0\n  corner: 1\nkind: cut\nname: Bad Name\ntools: [1, 2]\nspeed: fst\n"
    assert [problem.split(":")[1].split("  ")[0] for problem in problems(text)] == ["3", "4", "6", "7", "7", "8"]


def test_rules_between_fields_are_judged_beside_wrong_fields() -> None:
    found = problems(GOOD + "first: 5\nlast: 2\nspeed: 3\nis_dry: true\n")
    assert found == [
        "job.yaml:1  (the file): last is before first",
        "job.yaml:6  speed: must be slow or fast (it is 3)",
    ]


def test_all_rules_between_fields_of_one_model_come_at_once() -> None:
    found = problems(GOOD + "first: 5\nlast: 2\nspeed: fast\nis_dry: true\n")
    assert [problem.partition("): ")[2] for problem in found] == ["last is before first", "fast cutting cannot be dry"]


def test_no_rule_is_judged_on_a_value_that_is_wrong_missing_or_misspelt() -> None:
    """`last: x` must not be read as the default 10, nor `lst: 2` as if last were absent."""
    assert problems(GOOD + "first: 20\nlast: x\n") == ["job.yaml:5  last: must be a whole number (it is 'x')"]
    assert problems(GOOD + "first: 20\nlst: 30\n") == ["job.yaml:5  lst: unknown key; did you mean last?"]


def test_rules_between_fields_inside_a_wrong_job_are_judged() -> None:
    found = problems(GOOD.replace("{type: square}", "{type: square, corners: [a, b]}") + "speed: 3\n")
    assert found == [
        "job.yaml:3  shape: more corners than sides",
        "job.yaml:4  speed: must be slow or fast (it is 3)",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: a", "job.yaml:1  kind: this key is missing; the kinds are cut"),
        ("kind: paint", "job.yaml:1  kind: 'paint' is not a kind of job; the kinds are cut"),
        ("kind: 3", "job.yaml:1  kind: 3 is not a kind of job; the kinds are cut"),
        ("kind: [cut]", "job.yaml:1  kind: ['cut'] is not a kind of job; the kinds are cut; did you mean cut?"),
    ],
)
def test_a_wrong_kind_is_said_with_the_right_ones(text: str, problem: str) -> None:
    assert problems(text)[0] == problem


def test_a_nearly_right_kind_is_judged_as_the_one_that_was_meant() -> None:
    found = problems(GOOD.replace("cut", "cutt") + "speed: 3\n")
    assert found == [
        "job.yaml:1  kind: 'cutt' is not a kind of job; the kinds are cut; did you mean cut?",
        "job.yaml:4  speed: must be slow or fast (it is 3)",
    ]


def test_an_override_into_a_union_replaces_the_variant_or_says_what_is_left_over() -> None:
    text = GOOD.replace("{type: square}", "{type: square, side: 3}")
    document = parse(text, "job.yaml")
    document.set("shape={type: round, radius: 2}")
    spec = validate(document, KINDS)
    assert isinstance(spec, CutSpec)
    assert spec.shape == Round(type="round", radius=2.0)
    assert problems(text, "shape.type=round") == [
        "job.yaml:3  shape.side: unknown key where type is round; the keys here are type, radius"
    ]
    assert problems(text, "shape.side=x") == ["--set shape.side=x  shape.side: must be a whole number (it is 'x')"]


def test_the_message_counts_and_the_problems_stand_below() -> None:
    with pytest.raises(SpecError) as caught:
        validate(parse("kind: cut\nname: a\n", "job.yaml"), KINDS)
    assert str(caught.value) == "The job file has 1 problem (job.yaml).\n  job.yaml:1  shape: this key is missing"
    assert caught.value.exit_code == 2


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load(file, KINDS).spec.name == "a"


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(GOOD)
    (tmp_path / "latin.yaml").write_bytes(b"kind: cut\nname: \xe9")
    for file, message in (
        (tmp_path / "jbo.yaml", r"no such job file .*Did you mean .*job\.yaml"),
        (tmp_path / "zzz", "no such job file .*rayloom init"),
        (tmp_path, "is a folder"),
        (tmp_path / "latin.yaml", "byte 16.*UTF-8"),
        (tmp_path / "job.yaml" / "x", "cannot be read: not a directory"),
        (tmp_path / ("x" * 300), "cannot be read: file name too long"),
    ):
        with pytest.raises(InputError, match=message):
            load(file, KINDS)


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(GOOD)
    file.chmod(0)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        with pytest.raises(InputError, match="no permission to read"):
            load(file, KINDS)
    finally:
        if was_root:
            os.seteuid(0)


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(GOOD)
    assert load(tmp_path / "job.yaml", KINDS, ["name=b"]).directory == tmp_path.resolve()
