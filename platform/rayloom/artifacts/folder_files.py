"""The files of a folder that somebody else made: links followed, and what cannot be copied named."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from rayloom.errors import InputError


def files_below(folder: Path, without: Collection[str] = ()) -> list[Path]:
    """Every file at or below `folder` in order, also those behind links to folders, by the path under which it lies.

    `without`: names of folders that are passed over. Raises InputError for a link that leads nowhere or back into a
    folder above it, for what is neither file nor folder, and for a name that is not UTF-8.
    """
    return [folder] if folder.is_file() else sorted(_below(folder, without, (folder.resolve(),)))


def _below(folder: Path, without: Collection[str], above: tuple[Path, ...]) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise _problem(f"This folder cannot be read ({error.strerror})", folder) from None
    for entry in entries:
        path = Path(entry.path)
        _check_name(path)
        if not path.exists():
            target = path.readlink() if path.is_symlink() else "it was removed meanwhile"
            raise _problem(f"This link leads nowhere ({_shown(target)})", path)
        if path.is_file():
            yield path
        elif not path.is_dir():
            raise _problem("This is neither a file nor a folder (but a pipe, a socket or a device)", path)
        elif entry.name not in without:
            real = path.resolve()
            if real in above:
                raise _problem(f"This link leads back into a folder above it ({real})", path)
            yield from _below(path, without, (*above, real))


def _check_name(path: Path) -> None:
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise _problem("This file's name is not UTF-8", Path(_shown(path)), fix="Rename it.") from None


def _shown(path: str | Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _problem(what: str, path: Path, fix: str = "Remove it, or name a folder without it.") -> InputError:
    return InputError(what, where=str(path), fix=fix)
