"""Every key is described with its unit, and the pages of jobs/reference are those that the specs give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayloom.cli import main
from rayloom.commands.schema import page, schema_text
from rayloom.kinds import SPECS
from rayloom.specs.files.reference import Key, Reference, unit

PAGES = Path(__file__).parents[2] / "jobs" / "reference"
WITHOUT_UNIT = {
    # Ratios, factors and exponents.
    "alpha", "bad_weight", "beta", "beta1", "beta2", "decay", "density", "dropout", "embedding_noise", "epsilon",
    "factor", "good_weight", "gradient_clip_norm", "hidden_states_weight",
    "label_smoothing", "learning_rate", "margin", "max_label_ratio",
    "momentum", "max_quality_loss", "reduction_factor", "rollback_learning_rate_factor", "rope_theta", "smoothing",
    "spike_factor", "temperature", "top_p", "weight", "weight_decay", "min_confidence", "similarity_threshold",
    "strength", "clip_above", "clip_below", "coefficient", "discount", "importance_limit", "max_mismatch",
    "trace_decay", "value_clip", "value_coefficient", "router_balance",
    # As it is called everywhere: so many tokens.
    "top_k",
    # Values of whatever a search varies, or of the metric that is compared.
    "low", "high", "step", "min_perplexity", "max_perplexity", "max_increase", "max_engine_difference",
    "max_logit_difference", "min_score",
    "threshold",
    # Numbers of a thing that the key itself names.
    "encoder_size", "feed_forward_size", "frozen_lower_layers", "group_size", "hidden_size", "keep", "max_at_once",
    "max_loaded", "max_rank", "min_points", "min_stop_words", "patience", "port", "rank", "repeat", "seed", "size",
    "vocabulary_size", "zero_stage", "pipeline", "tensor", "context", "expert", "cost", "minutes_to_restart",
    "memory_mb", "at_once", "max_turns",
    # Of rewards: what is measured is the answer, and the key says how.
    "lowest", "highest", "at_least", "at_most", "slack", "tolerance",
}  # fmt: skip
"""Numbers whose description says what they count or scale."""


def described(kind: str) -> list[tuple[str, Key]]:
    """Every key of every mapping of a kind, with the mapping's name."""
    reference = Reference(kind, SPECS[kind].model_json_schema())
    schemas = {kind: reference.root, **reference.definitions}
    return [
        (f"{title}.{key.name}", key)
        for title, schema in schemas.items()
        for model in (reference.models(schema) if "properties" in schema else ())
        for key in model.fields()
    ]


@pytest.mark.parametrize("kind", list(SPECS))
def test_every_key_is_described_by_a_sentence(kind: str) -> None:
    undescribed = [path for path, key in described(kind) if "const" not in key.schema and not key.description]
    assert undescribed == []
    ragged = [path for path, key in described(kind) if key.description and key.description[-1] not in ".`)…"]
    assert ragged == [], "a description ends with a full stop"


@pytest.mark.parametrize("kind", list(SPECS))
def test_every_number_has_a_unit_in_its_name_or_needs_none(kind: str) -> None:
    numbers = [
        (path, key) for path, key in described(kind)
        if {branch.get("type") for branch in (key.schema, *key.schema.get("anyOf", ()))} & {"integer", "number"}
    ]  # fmt: skip
    assert [path for path, key in numbers if not unit(key) and key.name not in WITHOUT_UNIT] == []


@pytest.mark.parametrize("kind", list(SPECS))
def test_page_and_schema_say_what_the_specs_say(kind: str) -> None:
    written = {"md": page(kind, SPECS[kind]), "json": schema_text(SPECS[kind])}
    kept = {end: (PAGES / f"{kind}.{end}").read_text(encoding="utf-8") for end in written}
    assert kept == written, "write both again with `make reference`"


def test_no_page_or_schema_is_of_a_kind_that_has_gone() -> None:
    pages = [file for file in PAGES.glob("*.md") if file.read_text(encoding="utf-8").startswith("# kind: ")]
    assert {file.stem for file in pages} == {file.stem for file in PAGES.glob("*.json")} == set(SPECS)


def test_schema_prints_a_page_or_writes_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "merge", "--markdown"]) == 0
    printed = capfd.readouterr().out
    assert printed.startswith("# kind: merge\n")
    assert "| `adapter` | adapter, as artifact:NAME | must be given |" in printed
    assert main(["schema", "--markdown", "--output", str(tmp_path)]) == 0
    assert (tmp_path / "merge.md").read_text(encoding="utf-8") == printed
    assert main(["schema", "merge", "--output", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "merge.json").read_text(encoding="utf-8"))["title"] == "MergeSpec"
