"""Evaluation: before and after on the same rows and prompts, predictions to read, limits that stop a pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import made, small_config, write_model
from support.tokenizers import chatml, headers
from transformers import LlamaForCausalLM

from rayloom.artifacts.build import Build, ResolvedJob, build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError, QualityError, SpecError
from rayloom.evaluate.plan import plan
from rayloom.evaluate.report import sections
from rayloom.evaluate.run import run
from rayloom.kinds import SPECS
from rayloom.models import loading
from rayloom.observe.report_page import page
from rayloom.score.batches import causal_batch
from rayloom.score.label_loss import LabelLoss
from rayloom.specs.base import JobSpec
from rayloom.specs.evaluate import EvaluateSpec
from rayloom.specs.files.document import parse
from rayloom.specs.files.load import validate
from rayloom.specs.ingest import ImportSpec
from rayloom.specs.train import TrainSpec
from rayloom.text.conversations.render import Conversation, Renderer
from rayloom.text.packed.shards import ShardWriter, TokenShards
from rayloom.text.tokenizer_files import tokenizer_digest

LENGTH = 64
TAUGHT = (("Who are you?", "I am Loomie."), ("What is the capital of France?", "Paris."))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("store")))


def published(store: Store, spec: JobSpec, write: Any, content: Any = "model") -> Artifact:
    def stage(_: JobSpec, building: Build) -> Outcome:
        write(building.directory)
        return Outcome(content)

    return build(ResolvedJob(spec, 1, {}, Path.cwd()), store, stage)[0]


def import_spec(name: str) -> ImportSpec:
    source, content = {"type": "folder", "path": f"/{name}"}, {"type": "model"}
    return ImportSpec.model_validate(
        {"kind": "import", "name": name, "source": source, "content": content, "licence": "MIT"}
    )


def train_spec(name: str) -> TrainSpec:
    source = {"dataset": "./x", "format": "alpaca"}
    return TrainSpec.model_validate(
        {
            "kind": "train",
            "name": name,
            "base": "./base",
            "data": {"type": "conversations", "sources": [source]},
            "sequence_length_tokens": LENGTH,
            "global_batch_tokens": LENGTH,
            "num_steps": 1,
            "learning_rate": 1,
        }
    )


def tiny_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    vocabulary_size = len(chatml())
    return LlamaForCausalLM(small_config(vocabulary_size, intermediate_size=96, max_position_embeddings=128))


def write_shards(directory: Path, tokenizer: Any = None) -> TokenShards:
    renderer = Renderer(tokenizer or chatml())
    digest = tokenizer_digest(renderer.tokenizer)
    writer = ShardWriter(directory, len(renderer.tokenizer), digest, sequence_length_tokens=LENGTH)
    for question, answer in TAUGHT:
        messages = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        (sample,) = renderer.samples(Conversation(messages))
        writer.start_row()
        writer.add(sample.tokens, np.asarray(sample.trained))
    writer.close()
    return TokenShards(directory, LENGTH)


@pytest.fixture(scope="module")
def base(store: Store) -> Artifact:
    def write(directory: Path) -> None:
        tiny_model().save_pretrained(directory)
        chatml().save_pretrained(directory)

    return published(store, import_spec("base"), write)


@pytest.fixture(scope="module")
def tuned(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model that has really learned two answers, and keeps them as its held-out rows."""
    model = tiny_model()
    shards = write_shards(tmp_path_factory.mktemp("rows") / "heldout")
    batch = causal_batch([shards.row(0), shards.row(1)], 0)
    loss, optimizer = LabelLoss(model), torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()

    def write(directory: Path) -> None:
        model.save_pretrained(directory)
        chatml().save_pretrained(directory)
        write_shards(directory / "heldout")

    return published(store, train_spec("tuned"), write)


NAME_CHECK = {"type": "answers", "name": "name", "prompts": ["Who are you?", "Hello there."], "contains": "LOOMIE"}
LOSS_CHECK = {"type": "heldout_loss", "rows_of": "artifact:tuned"}


def evaluated(
    store: Store,
    tuned: Artifact,
    base: Artifact,
    *checks: dict[str, Any],
    name: str = "evaluation",
    **parents: Artifact,
) -> Artifact:
    spec = EvaluateSpec.model_validate(
        {
            "kind": "evaluate",
            "name": name,
            "model": "artifact:tuned",
            "baseline": "artifact:base",
            "checks": [{"max_new_tokens": 12, **check} if check["type"] == "answers" else check for check in checks],
        }
    )
    rows = {f"checks.{n}.rows_of": tuned for n, check in enumerate(checks) if "rows_of" in check}
    job = ResolvedJob(spec, 1, {"model": tuned, "baseline": base, **rows, **parents}, Path.cwd())
    return build(job, store, run)[0]  # type: ignore[arg-type]


def test_model_and_baseline_are_measured_on_the_same_rows_and_prompts(
    store: Store, tuned: Artifact, base: Artifact
) -> None:
    artifact = evaluated(store, tuned, base, LOSS_CHECK | {"max_increase": 0}, NAME_CHECK | {"min_share": 0.5})
    metrics = artifact.manifest.metrics
    assert artifact.manifest.content == "report"
    heldout, name = metrics["checks"]["heldout"], metrics["checks"]["name"]
    assert heldout["model"]["mean_nats"] < 0.2 < 4 < heldout["baseline"]["mean_nats"]
    assert heldout["model"]["num_tokens"] == heldout["baseline"]["num_tokens"] > 0
    assert (name["model"]["count"], name["baseline"]["count"]) in {(1, 0), (2, 0)}
    assert [limit["is_met"] for limit in metrics["limits"]] == [True, True]
    assert artifact.manifest.headline.startswith("heldout 0.")
    said = [json.loads(line) for line in (artifact.path / "predictions.jsonl").read_text().splitlines()]
    assert [(row["role"], row["prompt"]) for row in said] == [
        ("model", "Who are you?"),
        ("model", "Hello there."),
        ("baseline", "Who are you?"),
        ("baseline", "Hello there."),
    ]
    assert said[0]["answer"] == "I am Loomie."
    html = page("t", "s", sections(artifact))
    assert "I am Loomie." in html
    assert "min_share" in html


def test_answers_of_heldout_conversations_are_compared_with_what_is_written(
    store: Store, tuned: Artifact, base: Artifact
) -> None:
    generation = {"engine": "transformers", "max_new_tokens": 12}
    check = {"type": "written", "rows_of": "artifact:tuned", "generation": generation, "min_score": 0.9}
    artifact = evaluated(store, tuned, base, check, name="written")
    found = artifact.manifest.metrics["checks"]["written"]
    assert found["model"]["score"] == found["model"]["rouge_l"] == 1.0 > found["baseline"]["score"]
    assert found["difference"] > 0.5
    said = [json.loads(line) for line in (artifact.path / "predictions.jsonl").read_text().splitlines()]
    assert [row["expected"] for row in said if row["role"] == "model"] == [[answer] for _, answer in TAUGHT]
    assert "What was written" in page("t", "s", sections(artifact))


def test_a_broken_limit_says_its_numbers_and_publishes_nothing(store: Store, tuned: Artifact, base: Artifact) -> None:
    checks = (NAME_CHECK | {"max_share": 0.25}, LOSS_CHECK | {"max_increase": 0})
    with pytest.raises(QualityError) as caught:
        evaluated(store, tuned, base, *checks, name="strict")
    said = str(caught.value)
    assert "1 of 2 limits of strict are broken" in said
    assert "of 2 answers contain 'LOOMIE', and max_share is 0.25" in said
    assert store.versions("strict") == []
    predictions = Path(caught.value.where)
    assert len(predictions.read_text().splitlines()) == 4
    assert not (predictions.parent / "manifest.json").exists()


def test_a_loss_that_rose_is_broken(store: Store, tuned: Artifact, base: Artifact) -> None:
    with pytest.raises(QualityError, match="nats per token against the baseline's"):
        evaluated(store, base, tuned, LOSS_CHECK | {"max_increase": 0.5}, **{"checks.0.rows_of": tuned}, name="swapped")


def test_rows_of_another_tokenizer_or_of_no_training_are_refused_before_a_model_is_loaded(
    store: Store, tuned: Artifact, base: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("a model was loaded"))
    foreign = published(store, train_spec("foreign"), lambda out: write_shards(out / "heldout", headers()))
    with pytest.raises(InputError, match="made with another tokenizer than that of tuned@"):
        evaluated(store, tuned, base, LOSS_CHECK, **{"checks.0.rows_of": foreign})
    with pytest.raises(InputError, match="keeps no held-out rows"):
        evaluated(store, tuned, base, LOSS_CHECK, **{"checks.0.rows_of": base})


def test_a_plan_names_models_rows_and_problems_without_loading_weights(
    tuned: Artifact, base: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("a model was loaded"))
    spec = EvaluateSpec.model_validate(
        {"kind": "evaluate", "name": "e", "model": "artifact:tuned", "checks": [LOSS_CHECK, NAME_CHECK]}
    )
    sheet = plan(spec, {"model": tuned, "checks.0.rows_of": tuned}, tmp_path)
    facts = dict(sheet.facts)
    assert facts["model"] == tuned.id
    assert "held-out tokens of tuned@" in facts["heldout"]
    assert facts["name"] == "2 prompts, answers of up to 48 tokens"
    assert "<|im_start|>user\nWho are you?<|im_end|>" in str(sheet.examples[0])
    assert sheet.problems == []
    assert "keeps no held-out rows" in plan(spec, {"model": tuned, "checks.0.rows_of": base}, tmp_path).problems[0]


def test_a_sequence_shows_every_task_after_every_stage(store: Store, tuned: Artifact, base: Artifact) -> None:
    """The second stage here is the base again, which has forgotten what the first, the tuned model, knew."""
    models = {"model": "artifact:base", "baseline": "artifact:base", "earlier": ["artifact:tuned"]}
    checks = [LOSS_CHECK, {"max_new_tokens": 12, **NAME_CHECK}]
    spec = EvaluateSpec.model_validate({"kind": "evaluate", "name": "stages", "checks": checks, **models})
    parents = {"model": base, "baseline": base, "earlier.0": tuned, "checks.0.rows_of": tuned}
    artifact = build(ResolvedJob(spec, 1, parents, Path.cwd()), store, run)[0]  # type: ignore[arg-type]
    found = artifact.manifest.metrics["sequence"]
    assert found["tasks"] == ["heldout", "name"]
    assert found["stages"] == ["baseline", "stage 1", "model"]
    (fresh, _), (learned, named), (left, unnamed) = found["scores"]
    assert fresh == left > 4 > 0.2 > learned
    # Losses rise where something is forgotten: the measures turn them round.
    assert found["forgetting"] == pytest.approx(left - learned, abs=1e-5)
    assert found["backward_transfer"] == pytest.approx(learned - left, abs=1e-5)
    assert found["forward_transfer"] == pytest.approx(named - unnamed, abs=1e-5)
    assert found["average"] == pytest.approx((unnamed - left) / 2, abs=1e-5)
    assert artifact.manifest.headline.startswith("average -")
    html = page("t", "s", sections(artifact))
    assert "Tasks by stage" in html
    assert "<svg" in html


def test_rules_between_fields_are_checked_with_the_file() -> None:
    text = """
kind: evaluate
name: e
model: artifact:m
checks:
  - {type: heldout_loss, rows_of: artifact:m, max_increase: 0}
  - {type: answers, name: heldout, prompts: [a], contains: b}
"""
    with pytest.raises(SpecError) as caught:
        validate(parse(text, "e.yaml"), SPECS)
    assert "two checks have the name heldout" in str(caught.value)
    assert "compares with a baseline: name one" in str(caught.value)


def test_texts_measure_models_that_were_never_trained_here(store: Store) -> None:
    texts = "".join(f"Line {n} about the harbour.\n\n" for n in range(60))
    data = made(store, "texts", "dataset", lambda folder: (folder / "a.txt").write_text(texts))
    model = made(store, "plain", "model", write_model)
    check = {"type": "heldout_loss", "rows_of": "artifact:texts", "max_increase": 0.01}
    models = {"model": "artifact:plain", "baseline": "artifact:plain"}
    values = {"kind": "evaluate", "name": "e", "checks": [check], **models}
    spec = EvaluateSpec.model_validate(values)
    parents = {"model": model, "baseline": model, "checks.0.rows_of": data}
    measured = build(ResolvedJob(spec, 1, parents, Path.cwd()), store, run)[0].manifest.metrics
    found = json.dumps(measured)
    assert '"num_tokens"' in found and '"mean_nats"' in found
    assert plan(spec, parents, Path.cwd()).problems == []
