"""Archives are unpacked without trusting their names, and say what is wrong with them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from rayloom.errors import InputError
from rayloom.ingest.archive import unpack


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def _tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_paths_start_at_the_folder_that_all_members_share(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.whl", {"pkg/data/en/a.txt": b"a", "pkg/data/b.txt": b"b", "pkg/code.py": b""})
    unpack(archive, ["pkg/data/**"], tmp_path / "out")
    assert _names(tmp_path / "out") == ["b.txt", "en/a.txt"]


def test_a_source_archive_loses_its_top_folder(tmp_path: Path) -> None:
    archive = _tar(tmp_path / "p-1.0.tar.gz", {"p-1.0/data/a.json": b"[]", "p-1.0/README.md": b""})
    assert [path.name for path in unpack(archive, ["data/*.json"], tmp_path / "out")] == ["a.json"]
    assert _names(tmp_path / "out") == ["a.json"]


def test_a_zip_inside_is_unpacked_in_its_place(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("model/config.json", "{}")
    archive = _zip(tmp_path / "a.whl", {"pkg/model.zip": inner.getvalue()})
    unpack(archive, ["**/*.zip"], tmp_path / "out")
    assert _names(tmp_path / "out") == ["model/config.json"]


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:/evil.txt"])
def test_a_name_outside_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    archive = _zip(tmp_path / "a.zip", {name: b"x"})
    with pytest.raises(InputError, match="outside its own folder"):
        unpack(archive, ["**"], tmp_path / "out")
    assert _names(tmp_path) == ["a.zip"]


def test_an_unsafe_name_inside_an_inner_zip_is_refused(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("../../evil.txt", "x")
    archive = _zip(tmp_path / "a.zip", {"data/b.zip": inner.getvalue()})
    with pytest.raises(InputError, match="outside its own folder"):
        unpack(archive, ["**"], tmp_path / "out")
    assert not list(tmp_path.rglob("evil.txt"))


def test_links_in_a_tar_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as file:
        link = tarfile.TarInfo("p/passwords")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
        real = tarfile.TarInfo("p/real.txt")
        real.size = 1
        file.addfile(real, io.BytesIO(b"r"))
    unpack(path, ["**"], tmp_path / "out")
    assert _names(tmp_path / "out") == ["real.txt"]


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {"words.txt": b"many words " * 1000})
    content = bytearray(archive.read_bytes())
    content[60] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"words\.txt is damaged"):
        unpack(archive, ["**"], tmp_path / "out")


def test_what_fits_nothing_names_what_is_there(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {"articles.csv": b""})
    with pytest.raises(InputError, match=r"articles\.csv"):
        unpack(archive, ["*.jsonl"], tmp_path / "out")


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_text("no archive")
    with pytest.raises(InputError, match="neither a zip nor a tar"):
        unpack(tmp_path / "a.whl", ["**"], tmp_path / "out")
