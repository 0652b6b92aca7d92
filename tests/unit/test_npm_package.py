"""Packages of npm: packed by npm, checked against the pinned digest, kept in the cache, refused with the reason."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from pydantic import ValidationError

from rayloom.errors import InputError, ResourceError
from rayloom.ingest.npm_package import downloaded
from rayloom.specs.ingest import NpmSource

CONTENT = b"an archive"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def source(sha256: str = DIGEST, package: str = "@words/few") -> NpmSource:
    return NpmSource(type="npm", package=package, version="1.2.0", sha256=sha256)


def fake_npm(folder: Path, script: str) -> None:
    """An executable that stands for npm and is called as npm is: pack NAME@VERSION --pack-destination FOLDER."""
    folder.mkdir()
    file = folder / "npm"
    file.write_text(f'#!/bin/sh\n[ "$1 $2 $3" = "pack @words/few@1.2.0 --pack-destination" ] || exit 9\n{script}\n')
    file.chmod(0o755)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "cache/packages").mkdir(parents=True)
    return tmp_path / "cache"


def test_an_archive_is_fetched_once_and_checked(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_npm(tmp_path / "bin", f'printf "%s" "{CONTENT.decode()}" > "$4/words-few-1.2.0.tgz"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert downloaded(source(), cache).read_bytes() == CONTENT
    (tmp_path / "bin/npm").write_text("#!/bin/sh\nexit 1\n")
    assert downloaded(source(), cache).name == "words-few-1.2.0.tgz"
    with pytest.raises(ResourceError, match="npm could not fetch"):
        downloaded(source("0" * 64), cache)


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        ('printf other > "$4/x.tgz"', InputError, "another file than the pinned one"),
        ('echo "npm error code E404" >&2; exit 1', InputError, "no such package or version"),
        ('echo "npm error code ENOTFOUND" >&2; exit 1', ResourceError, "cannot be reached"),
    ],
)
def test_what_goes_wrong_is_said(
    script: str, kind: type[Exception], said: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_npm(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(kind, match=said):
        downloaded(source(), cache)


def test_without_npm_the_fix_is_named(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match="no npm here"):
        downloaded(source(), cache)


def test_a_name_is_nothing_but_a_name() -> None:
    for wrong in ("../x", "--help", "a b", "https://x/y.tgz"):
        with pytest.raises(ValidationError):
            source(package=wrong)
