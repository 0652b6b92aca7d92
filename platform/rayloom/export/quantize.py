"""`kind: quantize`: quantises a model, and measures perplexity, greedy answers, size and speed before and after."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError, QualityError
from rayloom.export import task_quantize
from rayloom.export.model_folder import ModelFolder, check_memory
from rayloom.export.quality.engine_check import (
    by_engine,
    check,
    difference,
    documents_of,
    is_runnable,
    log_probabilities,
)
from rayloom.export.quality.engine_process import tokens_per_second
from rayloom.export.quality.heldout_rows import CalibrationRows, SampledRows, check_tokenizer, rows_for
from rayloom.export.quality.sizes import Sizes, as_bf16_bytes, compare_sizes
from rayloom.export.schemes import fp8, int4, int8, nf4
from rayloom.export.schemes.blocks import blocks_of
from rayloom.export.schemes.compressed import CompressedWriter, linear_layers
from rayloom.models import loading
from rayloom.models.task_models import task_of
from rayloom.models.weight_files import stored_tensors
from rayloom.observe.progress import progress
from rayloom.score.agreement import compare_answers
from rayloom.score.answers import greedy_answers
from rayloom.score.perplexity import Loss, heldout_loss
from rayloom.specs.export import Fp8Scheme, Int4Scheme, Int8Scheme, Nf4Scheme, QuantizeSpec, Scheme, Speed

FP32_COPIES = 4
"""Number of fp32 copies of the largest layer while it is quantised."""


def run(spec: QuantizeSpec, build: Build) -> Outcome:
    """Writes the quantised model in the format of transformers and the server."""
    source = build.parents["model"]
    if task_of(source.path) is not None:
        return task_quantize.run(spec, build)
    folder = sixteen_bit(source)
    measured, calibrating = rows_for(spec, build.parents)
    check_tokenizer(folder.path, measured)
    check_memory(memory_bytes(folder), f"Quantising {source.id}")
    before, answers = measure(loading.load(folder.path), measured, spec, "before")
    layers = write_quantized(folder, spec.scheme, calibrating, build.directory, spec.name)
    # The files are loaded again: the perplexity is that of what was written, with the server's arithmetic.
    quantised = loading.load(build.directory)
    after, answers_after = measure(quantised, measured, spec, "after")
    documents = documents_of(measured) if spec.max_engine_difference and is_runnable(spec.scheme) else []
    by_transformers = log_probabilities(quantised, documents)
    del quantised
    agreement = compare_answers(answers, answers_after) if answers else None
    sizes = compare_sizes(stored_tensors(folder.path), build.directory, layers)
    check_quality(before, after, spec, source)
    check_size(sizes, spec, source)
    engine = None
    if documents and spec.max_engine_difference is not None:
        engine = difference(by_transformers, by_engine(build.directory, documents))
        check(engine, spec.max_engine_difference, source.id)
    speeds = None if spec.speed is None else _speeds(folder.path, build.directory, spec.speed)
    faster = "" if speeds is None else f", {speeds['after']:,.0f} tokens/s (before {speeds['before']:,.0f})"
    return Outcome(
        "model",
        {
            **_metrics(spec, source, folder, before, after, sizes, len(layers)),
            "tokens_per_second": speeds,
            "engine_difference": None if engine is None else engine.as_metrics(),
            "answers": None if agreement is None else {"num_answers": len(answers)} | agreement.as_metrics(),
        },
        source.manifest.licences,
        f"perplexity {after.perplexity:.4g} (before {before.perplexity:.4g}), {sizes.file_share:.0%} of bf16's size"
        + faster,
    )


def write_quantized(
    folder: ModelFolder, scheme: Scheme, rows: CalibrationRows | None, directory: Path, label: str = "quantising"
) -> tuple[str, ...]:
    """Writes the quantised model with its tokenizer and configuration; returns the names of the quantised layers.

    `rows`: calibration rows, if the scheme needs them.
    """
    if isinstance(scheme, Nf4Scheme):
        names = nf4.write_nf4(folder, directory)
        folder.copy_companions(directory)
        return names
    model = folder.load(torch.bfloat16)
    layers = linear_layers(model, isinstance(scheme, Int8Scheme) and scheme.head)
    writer = CompressedWriter(model, folder.path, directory, layers)
    if isinstance(scheme, Fp8Scheme):
        config = fp8.configuration()
        fp8.fp8_layers(layers, writer.keep)
    elif isinstance(scheme, Int4Scheme):
        config = int4.configuration(int4.group_size_for(scheme, [tuple(one.weight.shape) for one in layers.values()]))
        with progress(f"{label}: fitting", len(blocks_of(model, layers)), "blocks") as bar:
            int4.int4_layers(model, layers, scheme, rows, writer.keep, bar.advance)
    else:
        config = int8.configuration(scheme)
        with progress(f"{label}: calibrating", len(rows) if rows else 0, "rows") as bar:
            int8.int8_layers(model, layers, scheme, rows, writer.keep, bar.advance)
    names = writer.finish(config)
    folder.copy_companions(directory)
    return names


def sixteen_bit(artifact: Artifact) -> ModelFolder:
    """The model as a folder. Raises InputError if it is quantised already or is not a causal language model."""
    folder = ModelFolder.of(artifact.path)
    if folder.quantization is not None:
        what = f"{artifact.id} is quantised already ({folder.quantization})"
        raise InputError(what, where=str(artifact.path), fix="Name the 16-bit model that it was made from.")
    if not folder.is_causal:
        what = f"{artifact.id} is a {folder.architecture}, which has no perplexity to measure"
        fix = "Quantise a causal language model, or a model that a `train` job with a task made."
        raise InputError(what, where=str(artifact.path), fix=fix)
    return folder


def memory_bytes(folder: ModelFolder) -> int:
    """Estimated peak memory of quantising in bytes: the 16-bit model, and the largest layer in fp32.

    Weights stored in bf16 are memory-mapped, and their pages can be reclaimed. A quantised layer is written at once,
    and a block is freed after GPTQ has processed it.
    """
    sizes = [as_bf16_bytes(tensor) for tensor in stored_tensors(folder.path).values()]
    return sum(sizes) + FP32_COPIES * 2 * max(sizes)


def measure(model: nn.Module, rows: SampledRows, spec: QuantizeSpec, when: str) -> tuple[Loss, list[list[int]]]:
    """The loss on the rows, and the greedy answers to prompts from some of them."""
    with progress(f"{spec.name}: perplexity {when}", len(rows), "rows") as bar:
        loss = heldout_loss(model, rows, spec.micro_batch_sequences, bar.advance)
    return loss, answers_to(model, prompts_of(rows, spec.num_compared_answers), spec.num_compared_tokens)


def _speeds(before: Path, after: Path, speed: Speed) -> dict[str, Any]:
    num_cores = None if torch.cuda.is_available() else len(os.sched_getaffinity(0))
    speeds = tokens_per_second({"before": before, "after": after}, speed, num_cores)
    return speeds | {"batch_sequences": speed.batch_sequences, "cores": num_cores}


def check_quality(before: Loss, after: Loss, spec: QuantizeSpec, source: Artifact) -> None:
    ratio = after.perplexity / before.perplexity
    if not ratio <= spec.allowed_quality_loss:
        what = (
            f"The quantised model is too much worse: perplexity {after.perplexity:.4g} after {before.perplexity:.4g} "
            f"is a ratio of {ratio:.4g}, and {spec.allowed_quality_loss:g} is allowed"
        )
        raise QualityError(what, where=source.id, fix="Choose another scheme, or raise max_quality_loss.")


def check_size(sizes: Sizes, spec: QuantizeSpec, source: Artifact) -> None:
    """Raises QualityError if the quantised model is not smaller."""
    if sizes.file_share < 1:
        return
    what = f"The quantised model is not smaller: its files have {sizes.file_share:.0%} of the bytes that bf16 takes"
    head = isinstance(spec.scheme, Int8Scheme) and spec.scheme.head
    fix = "Set head: false: this head gets a tensor of its own." if head else "Serve the model as it is."
    raise QualityError(what, where=source.id, fix=fix)


def _metrics(
    spec: QuantizeSpec,
    source: Artifact,
    folder: ModelFolder,
    before: Loss,
    after: Loss,
    sizes: Sizes,
    num_layers: int,
) -> dict[str, Any]:
    return {
        "model": source.id,
        "architecture": folder.architecture,
        "scheme": spec.scheme.type,
        "num_layers": num_layers,
        "before": before.as_metrics(),
        "after": after.as_metrics(),
        "perplexity_ratio": after.perplexity / before.perplexity,
        "allowed_quality_loss": spec.allowed_quality_loss,
        **sizes.as_metrics(),
    }


# Greedy answers to prompts from real rows, to count how many stay the same after quantising.

LEAST_PROMPT_TOKENS = 16
"""Shortest prompt; a row in which every token is trained has no prompt of its own, and gets one of this length."""
MOST_PROMPT_TOKENS = 256


def prompts_of(rows: SampledRows, num_prompts: int) -> list[list[int]]:
    """The beginnings of evenly spaced rows, each up to the first trained token, where the answer begins."""
    chosen = np.linspace(0, len(rows) - 1, min(num_prompts, len(rows))).round().astype(int)
    prompts = []
    for number in sorted({int(number) for number in chosen}):
        row = rows.row(number)
        trained = np.flatnonzero(row.trained)
        end = max(LEAST_PROMPT_TOKENS, int(trained[0]) if len(trained) else 0)
        prompts.append(row.tokens[: min(end, MOST_PROMPT_TOKENS)].tolist())
    return prompts


def answers_to(model: nn.Module, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    """Greedy answers of at most this many tokens, up to the end-of-sequence token."""
    if not prompts:
        return []
    with_defaults: Any = model
    end = with_defaults.generation_config.eos_token_id
    stops = [] if end is None else end if isinstance(end, list) else [end]
    return greedy_answers(model, prompts, num_tokens, stops, len(prompts))
