"""Downloads a package's archive from the configured npm registry with npm, checks its pinned digest and caches it.

npm only downloads the archive (`npm pack`); nothing of the package is installed or run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from rayloom.artifacts.lock import exclusive
from rayloom.artifacts.manifest import sha256_of
from rayloom.errors import InputError, RayloomError, ResourceError
from rayloom.observe.progress import say
from rayloom.specs.ingest import NpmSource

_UNREACHABLE = re.compile(r"ENOTFOUND|ECONNREFUSED|ETIMEDOUT|ECONNRESET|EAI_AGAIN|network|socket", re.IGNORECASE)


def downloaded(source: NpmSource, cache: Path) -> Path:
    """The cached archive with the pinned digest; downloaded if the cache lacks it.

    Raises ResourceError if npm is missing or its registry cannot be reached, InputError if it has no such archive.
    """
    folder = cache / "packages" / source.sha256
    with exclusive(folder.with_suffix(".lock"), lambda: say(f"{_title(source)}: another process is downloading it")):
        kept = [path for path in folder.glob("*") if sha256_of(path) == source.sha256]
        if kept:
            return kept[0]
        with tempfile.TemporaryDirectory(dir=folder.parent) as staging:
            archive = _packed(source, Path(staging))
            folder.mkdir(exist_ok=True)
            return archive.replace(folder / archive.name)


def _packed(source: NpmSource, staging: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        fix = "Install Node.js, which brings it, or import the files from a folder."
        raise ResourceError("There is no npm here, which fetches this package", where=_title(source), fix=fix)
    say(f"{_title(source)}: npm is downloading it")
    command = [
        npm,
        "pack",
        f"{source.package}@{source.version}",
        "--pack-destination",
        str(staging),
        "--ignore-scripts",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=staging)
    archives = sorted(staging.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        raise _problem(source, done.stderr)
    digest = sha256_of(archives[0])
    if digest != source.sha256:
        what = f"The registry offers another file than the pinned one: SHA-256 {digest}, not {source.sha256}"
        raise InputError(what, where=_title(source), fix="Find out which is right before changing source.sha256.")
    return archives[0]


def _problem(source: NpmSource, output: str) -> RayloomError:
    if re.search(r"E404|ETARGET|No matching version", output):
        what = "The configured npm registry has no such package or version"
        return InputError(what, where=_title(source), fix="Check package and version in the job file.")
    if _UNREACHABLE.search(output):
        fix = "Check the network and npm's settings (`npm config list`), then run the same command again."
        return ResourceError("The npm registry cannot be reached", where=_title(source), fix=fix)
    last = [line for line in output.splitlines() if line.strip()][-1:] or ["nothing"]
    fix = "Run `npm pack` of the same version by hand to see all that it says."
    return ResourceError(f"npm could not fetch the package; it said: {last[0]}", where=_title(source), fix=fix)


def _title(source: NpmSource) -> str:
    return f"{source.package} {source.version}"
