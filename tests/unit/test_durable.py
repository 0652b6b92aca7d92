"""Files and folders that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayloom.artifacts.durable import appearing, write_durably


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.json"
    with appearing(target) as unfinished:
        unfinished.write_text("{}")
        assert not target.exists()
    assert target.read_text() == "{}"
    write_durably(target, "ä")
    assert [file.name for file in target.parent.iterdir()] == ["a.json"]
    assert target.read_text(encoding="utf-8") == "ä"


def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(OSError, match="full"), appearing(target) as unfinished:
        unfinished.write_text("ne")
        raise OSError("full")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a": "old"}


def test_a_folder_replaces_the_old_one_and_what_a_killed_writer_left(tmp_path: Path) -> None:
    target, left = tmp_path / "step-1", tmp_path / ".step-1.unfinished"
    for folder in (target, left):
        folder.mkdir()
        (folder / "old").touch()
    with appearing(target, single_writer=True) as unfinished:
        unfinished.mkdir()
        (unfinished / "new").touch()
    assert [file.name for file in target.iterdir()] == ["new"]
    assert not left.exists()
