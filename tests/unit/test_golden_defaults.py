"""A default that changes makes new results: the kind's version must be raised, as a fingerprint leaves defaults out."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from support.golden import changed_defaults, complaint, defaults_of, recorded

from rayloom.kinds import KINDS, SPECS
from rayloom.specs.base import Spec


@pytest.mark.parametrize("kind", list(KINDS))
def test_defaults_are_those_of_the_kinds_version(kind: str) -> None:
    version, before = KINDS[kind].version, recorded(kind)
    now = json.loads(json.dumps(defaults_of(SPECS[kind])))
    for path, old, new in changed_defaults(before["defaults"], now):
        pytest.fail(complaint(kind, version, f"the default of {path}", old, new))
    unwritten = sorted(set(now) - set(before["defaults"]))
    assert not unwritten, f"write down {', '.join(unwritten)}: cd tests && python -m support.golden {kind}"
    assert before["version"] == version, complaint(kind, version, "version", before["version"], version)


class Inner(Spec):
    type: Literal["inner"] = "inner"
    size: int = 1


class Outer(Spec):
    parts: tuple[Inner, ...] = ()
    share: float = 0.5


class Changed(Outer):
    share: float = 0.6
    later: int = 3


def test_a_changed_default_is_found_and_a_new_field_is_none() -> None:
    before = defaults_of(Outer)
    assert before == {"parts": [], "parts[inner].size": 1, "share": 0.5}
    assert changed_defaults(before, defaults_of(Changed)) == [("share", 0.5, 0.6)]
    assert changed_defaults({"parts": []}, {}) == [("parts", [], "(gone)")]
