"""A family of rules is a spec, a file and a line: everything that speaks of rules reads the one registry."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from support.passes import cleaned

from rayloom.data import plan, report
from rayloom.data.rules import registry
from rayloom.data.rules.document_rules import judge_of
from rayloom.data.rules.examined_text import Drop, ExaminedText
from rayloom.data.rules.registry import RULES, RuleFamily, family_of
from rayloom.specs.base import Spec, field_docs
from rayloom.specs.clean import CleanSpec, Normalisation
from rayloom.specs.cleaning import rules as specs
from rayloom.specs.cleaning.rules import Rules

# -- the toy: a spec with its field, a function, and a line ------------------------------------------------------------


class ShoutingRules(Spec):
    """Texts in capital letters."""

    max_share: float = 0.5
    """`shouts`"""


class RulesWithToy(Rules):
    """All rules and the toy."""

    shouting: ShoutingRules | None = ShoutingRules()


def judge_shouting(examined: ExaminedText, rules: ShoutingRules) -> Drop | None:
    share = sum(map(str.isupper, examined.text)) / len(examined.text)
    examined.note("voices", "quiet" if share < 0.1 else "loud")
    return Drop("shouts", share) if share > rules.max_share else None


TOY = RuleFamily("shouting", judge_shouting, "shouts", notes="voices")


@pytest.fixture
def with_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "RULES", (*RULES, TOY))


TEXTS = [
    *(f"page {n} about the harbour and {n * n} boats" for n in range(30)),
    "ALL THE BOATS ARE GONE FROM THE HARBOUR",
]


def _made(folder: Path, change: Callable[[CleanSpec], CleanSpec]) -> tuple[Any, CleanSpec]:
    (folder / "pages").mkdir()
    (folder / "pages" / "p.txt").write_text("\n".join(TEXTS))
    text = {"type": "text", "documents": "line"}
    job = {
        "sources": [{"name": "pages", "dataset": "./pages", "format": text, "domain": "web"}],
        "output": {"type": "rows"},
    }
    changed: list[CleanSpec] = []

    def remembered(spec: CleanSpec) -> CleanSpec:
        changed.append(change(spec))
        return changed[-1]

    return cleaned(folder, job, change=remembered), changed[0]


@pytest.mark.usefixtures("with_toy")
def test_a_new_family_is_planned_counted_rejected_and_reported(tmp_path: Path) -> None:
    rules = RulesWithToy(gopher=None, repetition=None)
    artifact, spec = _made(tmp_path, lambda spec: spec.model_copy(update={"rules": rules}))
    numbers = artifact.manifest.metrics
    assert numbers["dropped"] == {"shouts": 1} and numbers["voices"] == {"quiet": 30}
    rejects = [json.loads(line) for line in (artifact.path / "rejects" / "rules.jsonl").read_text().splitlines()]
    assert [(row["reason"], row["rule"], row["row"]) for row in rejects] == [("shouts", "shouting", 31)]
    shown = {section.title: section.body for section in report.sections(artifact)}
    assert "shouting" in shown["Dropped by reason"] and "quiet" in shown["Kept documents: voices"]
    planned = dict(plan.plan(spec, {"sources.0.dataset": artifact}, tmp_path).facts)
    assert planned["rules for web"] == "length, characters, shouting"


@pytest.mark.usefixtures("with_toy")
def test_a_new_family_can_be_turned_off() -> None:
    (kept,) = judge_of(Normalisation(), RulesWithToy(gopher=None, repetition=None, shouting=None))(TEXTS[-1])
    assert not isinstance(kept, Drop) and not kept.notes


# -- the real ones -----------------------------------------------------------------------------------------------------


def test_every_family_of_the_spec_is_registered_in_its_order() -> None:
    assert [family.name for family in (registry.LENGTH, *RULES)] == list(Rules.model_fields)


@pytest.mark.parametrize("name", list(Rules.model_fields))
def test_every_reason_that_a_spec_names_is_its_familys(name: str) -> None:
    annotation = Rules.model_fields[name].annotation
    (spec,) = [
        kind for kind in (*get_args(annotation), annotation) if isinstance(kind, type) and issubclass(kind, Spec)
    ]
    words = field_docs(spec).values()
    reasons = {
        reason.replace("{n}", "5")
        for reason in re.findall(r"`([a-z]+(?:_(?:[a-z]+|\{n\}))+)`", " ".join(words))
        if reason not in {*spec.model_fields, "max_listed_words"}
    }
    assert {family_of(reason) for reason in reasons} <= {name}, reasons
    assert reasons or name in {"sensitive"}
    assert specs.Rules is Rules
