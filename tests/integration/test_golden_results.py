"""A tiny job of each kind gives what it gave when the kind's version was set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.golden import changes, complaint, recorded
from support.golden_jobs import JOBS

from rayloom.kinds import KINDS


@pytest.mark.parametrize("kind", list(JOBS))
def test_the_result_is_that_of_the_kinds_version(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLOOM_STORE", str(tmp_path / "store"))
    version, before = KINDS[kind].version, recorded(kind)
    now = json.loads(json.dumps(JOBS[kind](tmp_path)))
    for path, old, new in changes(before["result"], now):
        pytest.fail(complaint(kind, version, path, old, new))
    assert before["version"] == version, complaint(kind, version, "version", before["version"], version)


def test_every_kind_but_serving_has_one() -> None:
    assert set(KINDS) - set(JOBS) == {"serve"}
