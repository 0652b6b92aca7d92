"""Reading YAML: plain values, line numbers, and every surprise of YAML refused or resolved one way."""

from __future__ import annotations

import math

import pytest

from rayloom.errors import SpecError
from rayloom.specs.files.document import YamlDocument, parse


def said(document: YamlDocument) -> list[str]:
    return [str(problem) for problem in document.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("50_000", 50_000),
        ("0x10", 16),
        ("-3", -3),
        (".5", 0.5),
        ("true", True),
        ("no", "no"),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("007", "007"),
        ("2026-11-21", "2026-11-21"),
        ("null", None),
        ("", None),
        ("'12'", "12"),
        ("1.10.0", "1.10.0"),
    ],
)
def test_plain_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    document = parse(f"key: {text}", "job.yaml")
    assert document.values == {"key": value}
    assert type(document.values["key"]) is type(value)
    assert document.problems == []


def test_infinity_and_nan_are_read_as_numbers_for_the_spec_to_refuse() -> None:
    values = parse("a: .inf\nb: -.inf\nc: .nan", "job.yaml").values
    assert values["a"] == math.inf
    assert values["b"] == -math.inf
    assert math.isnan(values["c"])


def test_every_path_has_the_line_it_stands_on() -> None:
    document = parse("a: 1\nb:\n  c: [x,\n      y]\n  d: {e: 2}\n", "job.yaml")
    assert document.lines[("a",)] == 1
    assert document.lines[("b", "c")] == 3
    assert document.lines[("b", "c", 1)] == 4
    assert document.lines[("b", "d", "e")] == 5


def test_a_problem_below_the_file_is_placed_at_the_nearest_key_above() -> None:
    document = parse("a: 1\nb:\n  c: 3\n", "job.yaml")
    assert str(document.problem(("b", "missing", "deep"), "b.missing: x")) == "job.yaml:2  b.missing: x"
    assert str(document.problem(("missing",), "missing: x")) == "job.yaml:1  missing: x"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2", "job.yaml:2  a: this key is given twice, first on line 1"),
        ("a: &x 1\nb: *x", "job.yaml:2  b: aliases (*name) are not read; write the value out"),
        ("a: {<<: {b: 1}}", "job.yaml:1  a: merge keys (<<) are not read; write the values out"),
        ("a: !secret x", "job.yaml:1  a: tags such as !secret are not read"),
        ("a: !!python/object:os.system {}", "job.yaml:1  a: tags such as !!python/object:os.system are not read"),
        ("? [a, b]\n: 1", "job.yaml:1  a key must be plain text, not a list or mapping"),
    ],
)
def test_what_a_job_file_may_not_use_is_a_problem_with_its_line(text: str, problem: str) -> None:
    assert said(parse(text, "job.yaml")) == [problem]


def test_an_alias_of_itself_ends() -> None:
    assert said(parse("a: &x [*x]", "job.yaml")) == [
        "job.yaml:1  a.0: aliases (*name) are not read; write the value out"
    ]


def test_aliases_cannot_grow_a_small_file_into_a_large_one() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert len(parse("\n".join(rows), "job.yaml").problems) == 110


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "job.yaml:1"),
        ("a: 1\n b: 2", "job.yaml:2"),
        ("a:\n\t- b", "job.yaml:2"),
        ("a: 'x", "job.yaml:1"),
        ("a: 1\n---\nb: 2", "single document"),
        ("a: \x00", "control characters are not allowed"),
        ("", "must be a mapping"),
        ("- a\n- b", "must be a mapping"),
        ("a: " + "[" * 5000, "nested too deeply"),
    ],
)
def test_what_is_no_mapping_is_one_plain_error(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(text, "job.yaml")


def test_set_replaces_a_value_and_makes_the_mappings_on_the_way() -> None:
    document = parse("a: {b: 1}\nc: [1, {d: 2}]", "job.yaml")
    for override in ("a.b=2", "e.f.g=x", "c.1.d=[1, 2]", "c.0=", "a.text='12'", "h=a=b"):
        document.set(override)
    assert document.problems == []
    assert document.values == {
        "a": {"b": 2, "text": "12"},
        "c": [None, {"d": [1, 2]}],
        "e": {"f": {"g": "x"}},
        "h": "a=b",
    }


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("a", "--set a  must be path.to.field=value"),
        ("=1", "--set =1  must be path.to.field=value"),
        ("a..b=1", "--set a..b=1  must be path.to.field=value"),
        ("a=[1", "--set a=[1  the value is not YAML; put it in quotes"),
        ("a=!x 1", "--set a=!x 1  tags such as !x are not read"),
        ("a.b=1", "--set a.b=1  a is the value 1, which has no field b"),
        ("c.2=1", "--set c.2=1  c is a list of 2, without an entry 2 (the first is 0)"),
        ("c.x.y=1", "--set c.x.y=1  c is a list of 2, without an entry x (the first is 0)"),
    ],
)
def test_a_set_that_cannot_be_applied_says_why_and_changes_nothing(override: str, problem: str) -> None:
    document = parse("a: 1\nc: [1, 2]", "job.yaml")
    document.set(override)
    assert said(document) == [problem]
    assert document.values == {"a": 1, "c": [1, 2]}


def test_problems_of_an_overridden_path_name_the_override() -> None:
    document = parse("a:\n  b: 1\n", "job.yaml")
    document.set("a.b={c: 2}")
    assert str(document.problem(("a", "b", "c"), "a.b.c: x")) == "--set a.b={c: 2}  a.b.c: x"
    assert str(document.problem(("a",), "a: x")) == "job.yaml:1  a: x"
    document.set("a={b: 3}")
    assert str(document.problem(("a", "b"), "a.b: x")) == "--set a={b: 3}  a.b: x"
