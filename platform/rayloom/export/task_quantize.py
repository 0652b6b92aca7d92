"""INT8 quantisation of models with a task (classifiers, taggers, ...), measured by the share of unchanged answers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError, QualityError
from rayloom.export.model_folder import ModelFolder
from rayloom.export.quality.sizes import compare_sizes
from rayloom.export.schemes import int8
from rayloom.export.schemes.compressed import CompressedWriter, linear_layers
from rayloom.models.responders.responder import Predictor
from rayloom.models.responders.subject import Subject, heldout_examples
from rayloom.models.task_models import task_of
from rayloom.models.weight_files import stored_tensors
from rayloom.observe.progress import progress
from rayloom.specs.export import Int8Scheme, QuantizeSpec
from rayloom.specs.training.tasks import TASK_FILE
from rayloom.text.labelled.examples import Example, Span


@dataclass(frozen=True)
class Answered:
    """A model's answers to the held-out texts."""

    answers: list[tuple[tuple[str, ...], tuple[Span, ...]]]
    """Labels and spans of each text; their scores are not compared."""
    texts_per_second: float


def run(spec: QuantizeSpec, build: Build) -> Outcome:
    """Writes the model with INT8 linear layers below its head, in the format of prediction and the server."""
    source = build.parents["model"]
    folder = sixteen_bit(source, spec)
    examples = heldout_examples(build.parents["rows_of"])
    before = _answered(spec, source, source.path, examples, "before")
    model = folder.load(stored_dtype(folder))
    linear = linear_layers(model)
    writer = CompressedWriter(model, folder.path, build.directory, linear)
    int8.int8_layers(model, linear, without_calibration(), None, writer.keep)
    layers = writer.finish(int8.configuration(without_calibration()))
    folder.copy_companions(build.directory)
    shutil.copyfile(source.path / TASK_FILE, build.directory / TASK_FILE)
    after = _answered(spec, source, build.directory, examples, "after")
    same = sum(one == other for one, other in zip(before.answers, after.answers, strict=True))
    check_quality(same, len(examples), spec, source)
    sizes = compare_sizes(stored_tensors(folder.path), build.directory, layers)
    known = task_of(source.path)
    assert known is not None
    return Outcome(
        "model",
        {
            "model": source.id,
            "architecture": folder.architecture,
            "task": known[0].type,
            "scheme": spec.scheme.type,
            "num_layers": len(layers),
            "num_texts": len(examples),
            "same_answers_share": same / len(examples),
            "texts_per_second": {"before": before.texts_per_second, "after": after.texts_per_second},
            "allowed_quality_loss": spec.allowed_quality_loss,
            **sizes.as_metrics(),
        },
        source.manifest.licences,
        f"{same:,} of {len(examples):,} answers stay the same, {sizes.file_share:.0%} of bf16's size",
    )


def sixteen_bit(artifact: Artifact, spec: QuantizeSpec) -> ModelFolder:
    """The model as a folder. Raises InputError if it is quantised already, or the scheme or speed is not supported."""
    folder = ModelFolder.of(artifact.path)
    if folder.quantization is not None:
        what = f"{artifact.id} is quantised already ({folder.quantization})"
        raise InputError(what, where=str(artifact.path), fix="Name the model that it was made from.")
    scheme = spec.scheme
    is_plain = isinstance(scheme, Int8Scheme) and scheme.activations == "dynamic" and not scheme.head
    smooths = isinstance(scheme, Int8Scheme) and "smoothing" in scheme.model_fields_set and scheme.smoothing is not None
    if not is_plain or smooths:
        what = (
            f"{artifact.id} is a {folder.architecture}: models with a task are quantised without calibration and head"
        )
        raise InputError(what, where="scheme", fix="Use scheme: {type: int8}.")
    if spec.speed is not None:
        what = f"{artifact.id} is a {folder.architecture}, which vLLM does not serve"
        raise InputError(what, where="speed", fix="Leave speed out: texts a second are measured anyway.")
    return folder


def without_calibration() -> Int8Scheme:
    """INT8 with a dynamic scale per token and without SmoothQuant, which is implemented for decoders' norms only."""
    return Int8Scheme(type="int8", smoothing=None)


def stored_dtype(folder: ModelFolder) -> torch.dtype:
    """The configured type of the weights, which the layers that are not quantised keep."""
    dtype = getattr(torch, str(folder.config.get("dtype") or folder.config.get("torch_dtype") or "float32"))
    assert isinstance(dtype, torch.dtype)
    return dtype


def check_quality(same: int, num_texts: int, spec: QuantizeSpec, source: Artifact) -> None:
    """Raises QualityError if less than 1 / max_quality_loss of the answers stay the same: 1.05 lets 1 in 21 change."""
    if same * spec.allowed_quality_loss < num_texts:
        what = (
            f"The quantised model is too much worse: {same:,} of {num_texts:,} answers to held-out texts stay the "
            f"same, and {num_texts / spec.allowed_quality_loss:,.0f} must"
        )
        raise QualityError(what, where=source.id, fix="Serve it as it is, or raise max_quality_loss.")


def _answered(spec: QuantizeSpec, source: Artifact, folder: Path, examples: Sequence[Example], when: str) -> Answered:
    predictor = Predictor.of(Subject("model", f"{source.id} {when}", folder))
    with progress(f"{spec.name}: answers {when}", len(examples), "texts") as bar:
        began = time.monotonic()
        predictions = predictor.predict(examples, spec.micro_batch_sequences, bar.advance)
        seconds = time.monotonic() - began
    return Answered([(one.labels, one.spans) for one in predictions], round(len(examples) / seconds, 2))
