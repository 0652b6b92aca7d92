"""Glob patterns mean the same in every room."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayloom.artifacts.files import matching_files
from rayloom.errors import InputError
from rayloom.specs.row_files import matches


@pytest.mark.parametrize(
    ("path", "pattern", "fits"),
    [
        ("a.json", "**", True),
        ("data/a.json", "**", True),
        ("data/a.json", "*", False),
        ("data/a.json", "*.json", False),
        ("data/a.json", "data/*.json", True),
        ("a.json", "**/*.json", True),
        ("x/y/a.json", "**/*.json", True),
        ("x/y/a.json", "x/**/a.json", True),
        ("x/a.json", "x/**/a.json", True),
        ("a1.txt", "a?.txt", True),
        ("a12.txt", "a?.txt", False),
        ("a+b.txt", "a+b.txt", True),
    ],
)
def test_patterns(path: str, pattern: str, fits: bool) -> None:
    assert matches(path, pattern) is fits


def test_files_come_in_order_without_the_manifest(tmp_path: Path) -> None:
    for name in ("b.txt", "manifest.json", ".work/half", "a/z.txt", "a/manifest.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    names = [path.relative_to(tmp_path).as_posix() for path in matching_files(tmp_path)]
    assert names == ["a/manifest.json", "a/z.txt", "b.txt"]


def test_a_pattern_that_fits_nothing_names_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "articles.csv").write_text("x")
    with pytest.raises(InputError, match=r"articles\.csv"):
        matching_files(tmp_path, "*.jsonl")
