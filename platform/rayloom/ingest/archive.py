"""Unpacks files from a wheel, zip or tar archive; rejects unsafe member names."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from rayloom.errors import InputError, ResourceError
from rayloom.specs.row_files import matches


@dataclass(frozen=True)
class Member:
    """A regular file inside an archive."""

    name: str
    """Relative, with forward slashes; in a source archive without its single top folder."""
    size_bytes: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, patterns: Sequence[str], target: Path) -> list[Path]:
    """Writes the members that match a pattern and returns their paths; a member that is a .zip is unpacked itself.

    Paths are relative to the folder that all members share: `data/en/a.txt` and `data/b.txt` become `en/a.txt` and
    `b.txt`. Raises InputError if the archive is damaged, a name is unsafe, or nothing matches.
    """
    with opened(archive) as members:
        taken = [member for member in members if any(matches(member.name, pattern) for pattern in patterns)]
        if not taken:
            known = ", ".join(sorted(member.name for member in members)[:8])
            what = f"Nothing in the archive fits {' or '.join(patterns)}"
            raise InputError(what, where=archive.name, fix=f"Its first members are: {known}.")
        shared = _shared_folder([member.name for member in taken])
        return [path for member in taken for path in _place(member, target / member.name[len(shared) :])]


@contextmanager
def opened(archive: Path) -> Iterator[list[Member]]:
    """The regular files of a zip (wheels are zips) or tar archive; readable while the block runs."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            yield [
                Member(_safe(info.filename, archive), info.file_size, lambda info=info: file.open(info))  # type: ignore[misc]
                for info in file.infolist()
                if not info.is_dir()
            ]
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as file:
            yield _without_top_folder(
                [
                    Member(_safe(info.name, archive), info.size, lambda info=info: _tar_member(file, info))  # type: ignore[misc]
                    for info in file.getmembers()
                    if info.isreg()
                ]
            )
    else:
        raise InputError("This is neither a zip nor a tar archive", where=str(archive), fix="Check the file.")


def _tar_member(file: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    member = file.extractfile(info)
    assert member is not None, "a regular file of a tar archive has content"
    return member


def _without_top_folder(members: list[Member]) -> list[Member]:
    tops = {member.name.partition("/")[0] for member in members}
    if len(tops) != 1 or any("/" not in member.name for member in members):
        return members
    return [Member(member.name.partition("/")[2], member.size_bytes, member.open) for member in members]


def _safe(name: str, archive: Path) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        what = f"The archive names a member outside its own folder: {name!r}"
        raise InputError(what, where=str(archive), fix="Do not use this archive.")
    return path.as_posix()


def _shared_folder(names: Sequence[str]) -> str:
    """The common parent folder of the names, with its slash; empty if there is none."""
    folders = [PurePosixPath(name).parent.parts for name in names]
    shared = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "".join(f"{part}/" for part in shared)


def _place(member: Member, target: Path) -> list[Path]:
    """Writes the member as a file, or the files inside it if it is a .zip."""
    _write(member, target)
    if target.suffix != ".zip":
        return [target]
    with opened(target) as members:
        inner = [(member, target.parent / member.name) for member in members]
        for inside, path in inner:
            _write(inside, path)
    target.unlink()
    return [path for _, path in inner]


def _write(member: Member, place: Path) -> None:
    free = shutil.disk_usage(_existing(place)).free
    if member.size_bytes > free:
        what = f"{member.name} unpacks to {member.size_bytes:,} bytes, but the disk has {free:,} left"
        raise ResourceError(what, where=str(place.parent), fix="Free some space or put the store elsewhere.")
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with member.open() as source, place.open("xb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise InputError(f"{member.name} is damaged: {error}", where=str(place), fix="Fetch it again.") from None
    except FileExistsError:
        raise InputError(
            f"Two members would become the same file {place.name}", where=str(place), fix="Take one."
        ) from None


def _existing(path: Path) -> Path:
    return next(folder for folder in path.parents if folder.exists())
