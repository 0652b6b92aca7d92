"""The sections of an artifact's report for its page, made in a process of their own and kept on this machine.

Reporters import what their kind needs (matplotlib, Optuna, torch), up to a quarter of a gigabyte, which the server does
not need. Charts are taken out of the HTML and are images of their own: their styles would not pass the page's policy.

    python -m rayloom.ui.reports STORE NAME@VERSION
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rayloom
from rayloom.artifacts.durable import appearing
from rayloom.artifacts.manifest import Manifest
from rayloom.artifacts.store import Store
from rayloom.commands.output import size
from rayloom.errors import RayloomError, unwrapped
from rayloom.kinds import imported, reporter_of

SECONDS = 120.0
MOST_REMOTE_BYTES = 64_000_000
"""A larger artifact of a remote store is not fetched for its report."""
_SVG = re.compile(r"<svg.*?</svg>", re.DOTALL)


@dataclass(frozen=True)
class ReportSection:
    """A heading, and HTML without charts: `charts` stand behind it."""

    title: str
    body: str
    charts: tuple[str, ...]
    """SVG."""


class Reports:
    """Reports by artifact, one made at a time."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()

    def of(self, manifest: Manifest) -> list[ReportSection]:
        """The sections. Raises RayloomError if they cannot be made."""
        file = self._file(manifest)
        kept = _read(file)
        if kept is not None:
            return kept
        if not self._store.is_local and manifest.size_bytes > MOST_REMOTE_BYTES:
            what = f"Its report needs its files ({size(manifest.size_bytes)}), which are not on this machine"
            raise RayloomError(what, fix=f"`rayloom report {manifest.id}` fetches them and writes it.")
        with self._lock:
            return _read(file) or self._made(manifest, file)

    def _file(self, manifest: Manifest) -> Path:
        key = f"{manifest.id} {manifest.digest} {manifest.created_at} {rayloom.__version__}"
        return self._store.cache / "ui" / "reports" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"

    def _made(self, manifest: Manifest, file: Path) -> list[ReportSection]:
        command = [sys.executable, "-m", "rayloom.ui.reports", self._store.uri, manifest.id]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            fix = f"`rayloom report {manifest.id}` has no limit."
            raise RayloomError(f"The report was not ready after {SECONDS:.0f} s", fix=fix) from None
        if ended.returncode != 0:
            said = ended.stderr.strip().splitlines() or [f"its process ended with {ended.returncode}"]
            raise RayloomError(f"The report could not be made: {said[-1]}", fix="`rayloom report --debug` says more.")
        with appearing(file) as unfinished:
            unfinished.write_text(ended.stdout, encoding="utf-8")
        return _read(file) or []


def _read(file: Path) -> list[ReportSection] | None:
    try:
        plain: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        return [ReportSection(one["title"], one["body"], tuple(one["charts"])) for one in plain]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def sections(store: Store, artifact_id: str) -> list[ReportSection]:
    """What the reporter of the artifact's kind says."""
    manifest = store.resolve(artifact_id)
    reporter = reporter_of(manifest.kind)
    made = imported(reporter)(store.open(manifest)) if reporter else []
    return [ReportSection(one.title, _SVG.sub("", one.body), tuple(_SVG.findall(one.body))) for one in made]


def main(arguments: list[str]) -> None:
    uri, artifact_id = arguments
    try:
        made = sections(Store(uri), artifact_id)
    except Exception as error:  # noqa: BLE001 (the page says it in one line)
        sys.exit(str(unwrapped(error)))
    sys.stdout.write(json.dumps([asdict(section) for section in made]))


if __name__ == "__main__":
    main(sys.argv[1:])
