"""A program of a Debian package where it is not installed and cannot be: unpacked into a folder, for this user only.

    python cluster/debian.py FOLDER PROGRAM     prints the path of something that runs it

Packages come from the machine's own apt sources by `apt-get download`; those that the program links to are named too.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = {
    "redis-server": ("redis-server", "redis-tools", "liblzf1", "libjemalloc2"),
    "prometheus": ("prometheus",),
}


class NotHereError(Exception):
    """Why the program cannot be had on this machine."""


def program(name: str, folder: Path) -> Path:
    """The installed program, else the unpacked one. Raises NotHereError where there is neither."""
    installed = shutil.which(name)
    if installed is not None:
        return Path(installed)
    made = folder / name
    if not made.exists():
        _unpack(PACKAGES[name], folder / "root")
        _write_starter(made, folder / "root")
    return made


def _unpack(packages: tuple[str, ...], root: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise NotHereError(f"{packages[0]} is not installed, and this is no Debian to take it from")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as downloads:
        got = subprocess.run(["apt-get", "download", *packages], cwd=downloads, capture_output=True, text=True)
        if got.returncode:
            said = (got.stderr.strip().splitlines() or ["apt-get said nothing"])[-1]
            raise NotHereError(f"{packages[0]} is not installed, and apt-get cannot download it: {said}")
        for package in sorted(Path(downloads).glob("*.deb")):
            subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)


def _write_starter(starter: Path, root: Path) -> None:
    """A program that runs with the libraries beside it."""
    libraries = ":".join(sorted({str(file.parent) for file in root.glob("usr/lib/**/*.so.*")}))
    path = f"LD_LIBRARY_PATH={libraries} " if libraries else ""
    starter.write_text(f'#!/bin/sh\n{path}exec {root}/usr/bin/{starter.name} "$@"\n')
    starter.chmod(0o755)


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{program(sys.argv[2], Path(sys.argv[1]).resolve())}\n")
    except NotHereError as error:
        sys.exit(str(error))
