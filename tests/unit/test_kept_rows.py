"""Prepared rows are made once for all jobs with the same rows, and again where anything that they depend on changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rayloom.artifacts.store import Store
from rayloom.errors import InputError
from rayloom.train.kept_rows import ROWS_NAME, is_kept, kept

FINISHED = "counts.json"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def made_by(calls: list[Path], store: Store, key: str, link: Path) -> str:
    def make(place: Path) -> None:
        calls.append(place)
        place.mkdir()
        (place / "rows").write_text(f"{key} {len(calls)}")
        (place / FINISHED).write_text("{}")

    kept(store, key, FINISHED, make, link)
    return (link / "rows").read_text()


def test_rows_are_made_once_and_found_again(store: Store, tmp_path: Path) -> None:
    calls: list[Path] = []
    assert not is_kept(store, "a", FINISHED)
    found = [made_by(calls, store, "a", tmp_path / name) for name in ("plan", "run", "run")]
    assert found == ["a 1"] * 3
    assert made_by(calls, store, "b", tmp_path / "other") == "b 2"
    assert is_kept(store, "a", FINISHED)
    assert store.names() == []


def test_rows_that_were_removed_or_half_made_are_made_again(store: Store, tmp_path: Path) -> None:
    calls: list[Path] = []
    made_by(calls, store, "a", tmp_path / "run")
    shutil.rmtree(Path(store.root) / ROWS_NAME / "a")
    assert made_by(calls, store, "a", tmp_path / "run") == "a 2"

    def fails(_: Path) -> None:
        raise InputError("A row is bad")

    with pytest.raises(InputError, match="A row is bad"):
        kept(store, "b", FINISHED, fails, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
