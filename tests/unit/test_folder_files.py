"""Folders that somebody else made: links are followed, and what cannot be copied is named, never a traceback."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rayloom.artifacts.manifest import files_below, stamp_of_path
from rayloom.artifacts.store import Store
from rayloom.dispatch import load_job, run
from rayloom.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file, and a link to another folder with one."""
    for name in ("data", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(name)
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "data"


def _dangling(folder: Path) -> None:
    (folder / "gone.txt").symlink_to(folder / "nowhere.txt")


def _loop(folder: Path) -> None:
    (folder / "linked" / "back").symlink_to(folder)


def _circle(folder: Path) -> None:
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def _latin_1_name(folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt"))).write_text("x")


def test_files_behind_links_are_files_of_the_folder(folder: Path) -> None:
    assert [file.relative_to(folder).as_posix() for file in files_below(folder)] == [
        "data.txt", "linked/elsewhere.txt",
    ]  # fmt: skip
    assert files_below(folder, without=("linked",)) == [folder / "data.txt"]
    assert files_below(folder / "data.txt") == [folder / "data.txt"]


def test_a_change_behind_a_link_changes_the_stamp(folder: Path) -> None:
    before = stamp_of_path(folder)
    (folder.parent / "elsewhere" / "elsewhere.txt").write_text("changed")
    assert stamp_of_path(folder) != before


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_dangling, "leads nowhere"),
        (_loop, "leads back into a folder above it"),
        (_circle, "leads nowhere"),
        (_pipe, "neither a file nor a folder"),
        (_latin_1_name, r"not UTF-8 \(.*caf\\xe9\.txt"),
    ],
)
def test_what_cannot_be_imported_is_named(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    job = tmp_path / "import.yaml"
    job.write_text(
        "kind: import\nname: thing\nlicence: CC0-1.0\nsource: {type: folder, path: data}\ncontent: {type: dataset}\n"
    )
    store = Store(str(tmp_path / "store"), cache=tmp_path / "cache")
    artifact, _ = run(load_job(job), store)
    assert (artifact.path / "linked" / "elsewhere.txt").read_text() == "elsewhere"
    spoil(folder)
    with pytest.raises(InputError, match=said) as raised:
        run(load_job(job), store)
    assert raised.value.fix
    assert str(raised.value).encode()
