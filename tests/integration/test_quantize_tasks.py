"""Models with a task in INT8: what they still say, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.artifacts import Folder
from support.models import made
from support.tasks import (
    entity_rows,
    question_rows,
    review_rows,
    translation_rows,
    write_encoder,
    write_encoder_decoder,
    write_jsonl,
)
from support.training_jobs import ONE

from rayloom.artifacts.build import ResolvedJob, build
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError, QualityError
from rayloom.export.plan import plan_quantize
from rayloom.export.quantize import run
from rayloom.export.report import sections
from rayloom.export.schemes.compressed import round_channels
from rayloom.models.int8_linear import Int8Linear
from rayloom.models.task_models import load_task_model, task_of
from rayloom.observe.report_page import page
from rayloom.specs.export import QuantizeSpec
from rayloom.specs.train import TrainSpec
from rayloom.train.loop.loop import train
from rayloom.train.prepare import job_of

LABELS = ["no", "yes"]
ROWS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "text_classification": (review_rows, {"type": "table", "names": {"0": "no", "1": "yes"}}, {"labels": LABELS}),
    "token_classification": (entity_rows, {"type": "spans"}, {"entities": ["person", "place"]}),
    "question_answering": (question_rows, {"type": "questions"}, {}),
    "sequence_to_sequence": (translation_rows, {"type": "pairs"}, {"max_target_tokens": 8}),
}
"""Made-up rows of each task, how they are read, and what the task is."""


def trained(store: Store, folder: Path, task: str) -> Artifact:
    """The result of a training job that has learnt its task."""
    rows, read, facts = ROWS[task]
    write = write_encoder_decoder if task == "sequence_to_sequence" else write_encoder
    write(folder / "base")
    write_jsonl(rows(200), folder / "data/x.jsonl")
    (folder / "work").mkdir()
    spec = TrainSpec.model_validate(
        {
            "kind": "train", "name": "tuned", "base": "./base", "task": {"type": task, **facts},
            "data": {"type": "labelled", "sources": [{"dataset": "./data", "read": read}], "heldout_rows": 24},
            "sequence_length_tokens": 32, "micro_batch_sequences": 16, "global_batch_tokens": 16 * 32,
            "num_steps": 30, "learning_rate": 5e-3, "precision": "fp32",
        }
    )  # fmt: skip
    parents: Any = {"base": Folder(folder / "base"), "data.sources.0.dataset": Folder(folder / "data")}
    job = job_of(spec, parents, folder / "work", folder / "out")
    train(job, ONE, lambda _: None)
    shutil.copytree(job.heldout["heldout"], folder / "out" / "heldout", dirs_exist_ok=True)
    return made(store, "tuned", "model", lambda directory: shutil.copytree(job.out, directory, dirs_exist_ok=True))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def spec_of(**changes: Any) -> QuantizeSpec:
    values = {"kind": "quantize", "name": "small", "model": "artifact:tuned", "rows_of": "artifact:tuned"}
    return QuantizeSpec.model_validate(values | {"scheme": {"type": "int8"}} | changes)


def quantize(store: Store, model: Artifact, **changes: Any) -> Artifact:
    parents = {"model": model, "rows_of": model}
    return build(ResolvedJob(spec_of(**changes), 1, parents, Path.cwd()), store, run)[0]


@pytest.mark.parametrize("task", ROWS)
def test_a_task_in_int8_says_nearly_the_same(store: Store, tmp_path: Path, task: str) -> None:
    model = trained(store, tmp_path, task)
    sheet = plan_quantize(spec_of(max_quality_loss=1.2), {"model": model, "rows_of": model}, Path())
    small = quantize(store, model, max_quality_loss=1.2)
    metrics = small.manifest.metrics
    assert (metrics["task"], metrics["num_texts"]) == (task, 24)
    assert metrics["same_answers_share"] >= 1 / 1.2
    assert min(metrics["texts_per_second"].values()) > 0
    bytes_after = metrics["linear_bytes"]
    assert sheet.problems == []
    foretold = f"{bytes_after['before'] / 1e6:,.1f} MB in bf16, {bytes_after['after'] / 1e6:,.1f} MB after"
    assert dict(sheet.facts)["linear layers"] == foretold
    known = task_of(small.path)
    assert known is not None
    loaded = load_task_model(small.path, None, known[0])
    layers = [name for name, module in loaded.named_modules() if isinstance(module, Int8Linear)]
    assert len(layers) == metrics["num_layers"] > 0
    stored = load_file(small.path / "model.safetensors")
    assert {stored[f"{name}.weight"].dtype for name in layers} == {torch.int8}
    heads = [t for name, t in stored.items() if name.startswith(("classifier", "qa_outputs", "lm_head"))]
    assert all(tensor.dtype == torch.float32 for tensor in heads)
    assert "answers that stay the same" in page("small", "", sections(small))


def test_schemes_that_calibrate_and_quantised_models_are_refused(store: Store, tmp_path: Path) -> None:
    model = trained(store, tmp_path, "text_classification")
    with pytest.raises(InputError, match="without calibration"):
        quantize(store, model, scheme={"type": "int4"})
    with pytest.raises(InputError, match="without calibration"):
        quantize(store, model, scheme={"type": "int8", "smoothing": 0.5})
    with pytest.raises(InputError, match="and head"):
        quantize(store, model, scheme={"type": "int8", "head": True})
    with pytest.raises(InputError, match="measured anyway"):
        quantize(store, model, speed={})
    small = quantize(store, model, max_quality_loss=1.2)
    with pytest.raises(InputError, match="quantised already"):
        quantize(store, small)


def test_too_many_changed_answers_fail(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(store, tmp_path, "text_classification")
    monkeypatch.setattr(
        "rayloom.export.schemes.int8.round_channels", lambda weight, dtype: round_channels(-weight, dtype)
    )
    with pytest.raises(QualityError, match="answers to held-out texts stay"):
        quantize(store, model)
