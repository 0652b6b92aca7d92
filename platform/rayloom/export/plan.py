"""The plans of merging and quantising, from the headers of the weight files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rayloom.artifacts.lineage import base_of
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import RayloomError
from rayloom.export.adapters import AdapterFolder
from rayloom.export.model_folder import check_memory
from rayloom.export.quality.heldout_rows import rows_for
from rayloom.models.processor import INT8_WARNING, multiplies_int8
from rayloom.models.task_models import task_of
from rayloom.models.weight_files import stored_tensors
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.export import Fp8Scheme, Int8Scheme, MergeSpec, Nf4Scheme, QuantizeSpec, Scheme


def plan_merge(spec: MergeSpec, parents: Mapping[str, Artifact], job_directory: Path) -> PlanSheet:
    """Adapter, base, memory and the checks."""
    from rayloom.export.merge import memory_bytes, others, sixteen_bit

    sheet = PlanSheet()
    try:
        adapter = AdapterFolder.of(parents["adapter"].path)
        sheet.add("adapter", f"{parents['adapter'].id}: {adapter.described}")
        base = base_of(parents["adapter"], parents.get("base"), Store.beside(job_directory))
        sheet.add("base", base.id)
        if spec.combine is not None:
            further = others(spec.combine, parents, base, Store.beside(job_directory))
            sheet.add("combined by", f"{spec.combine.method} with {', '.join(artifact.id for artifact in further)}")
        folder = sixteen_bit(base)
        sheet.add("parameters", sum(tensor.num_values for tensor in stored_tensors(folder.path).values()))
        sheet.add("memory", f"about {memory_bytes(folder) / 1e9:.1f} GB: the merge is computed in fp32")
        check_memory(memory_bytes(folder), "Merging")
    except RayloomError as error:
        sheet.problems.append(str(error))
    sheet.add("saved in", spec.save_precision)
    sheet.add("fails past", f"a logit difference of {spec.max_logit_difference:g} on {len(spec.prompts)} prompts")
    return sheet


def plan_quantize(spec: QuantizeSpec, parents: Mapping[str, Artifact], job_directory: Path) -> PlanSheet:  # noqa: ARG001
    """Size after quantising, memory, and the measurements."""
    from rayloom.export.quality.engine_check import is_runnable
    from rayloom.export.quantize import memory_bytes, sixteen_bit
    from rayloom.export.schemes.compressed import linear_layers, num_expert_values

    if task_of(parents["model"].path) is not None:
        return _plan_task(spec, parents)
    sheet = PlanSheet()
    try:
        folder = sixteen_bit(parents["model"])
        sheet.add("model", parents["model"].id)
        with_head = isinstance(spec.scheme, Int8Scheme) and spec.scheme.head
        skeleton = folder.skeleton()
        shapes = [tuple(layer.weight.shape) for layer in linear_layers(skeleton, with_head).values()]
        if experts := num_expert_values(skeleton):
            share = experts / skeleton.num_parameters()
            sheet.warnings.append(f"{share:.0%} of the parameters are experts of a mixture, which stay in bf16")
        described, after = _size_after(spec.scheme, shapes)
        before = sum(outputs * inputs * 2 for outputs, inputs in shapes)
        sheet.add("scheme", described)
        sheet.add("layers", len(shapes))
        sheet.add("linear layers", f"{before / 1e6:,.1f} MB in bf16, {after / 1e6:,.1f} MB after")
        sheet.add("memory", f"about {memory_bytes(folder) / 1e9:.1f} GB")
        check_memory(memory_bytes(folder), "Quantising")
        rows, calibrating = rows_for(spec, parents)
        sheet.add("measured on", f"{len(rows)} held-out rows of {parents['rows_of'].id}, {rows.num_tokens:,} tokens")
        if calibrating is not None:
            source = (
                f" of {parents['calibration.rows_of'].id}" if "calibration.rows_of" in parents else " of the others"
            )
            sheet.add("calibrated on", f"{len(calibrating)} rows{source}, {calibrating.num_tokens:,} tokens")
    except RayloomError as error:
        sheet.problems.append(str(error))
    if isinstance(spec.scheme, Int8Scheme) and not multiplies_int8():
        sheet.warnings.append(f"served from a CPU like this one, it loses more: {INT8_WARNING}")
    if spec.max_engine_difference is not None and is_runnable(spec.scheme):
        sheet.add("served by", f"vLLM: fails past {spec.max_engine_difference:g} nats between it and transformers")
    if spec.speed is not None:
        sheet.add("speed", f"by vLLM before and after, {spec.speed.batch_sequences} requests at once")
    sheet.add("fails past", f"{spec.allowed_quality_loss:g} times the perplexity before")
    return sheet


def _plan_task(spec: QuantizeSpec, parents: Mapping[str, Artifact]) -> PlanSheet:
    from rayloom.export.schemes.compressed import linear_layers
    from rayloom.export.task_quantize import sixteen_bit, without_calibration
    from rayloom.models.responders.subject import heldout_examples

    sheet = PlanSheet()
    try:
        folder = sixteen_bit(parents["model"], spec)
        sheet.add("model", parents["model"].id)
        shapes = [tuple(layer.weight.shape) for layer in linear_layers(folder.skeleton()).values()]
        described, after = _size_after(without_calibration(), shapes)
        sheet.add("scheme", f"{described}, without calibration")
        sheet.add("layers", len(shapes))
        before = sum(outputs * inputs * 2 for outputs, inputs in shapes)
        sheet.add("linear layers", f"{before / 1e6:,.1f} MB in bf16, {after / 1e6:,.1f} MB after")
        num_texts = len(heldout_examples(parents["rows_of"]))
        sheet.add("measured on", f"{num_texts:,} held-out texts of {parents['rows_of'].id}")
    except RayloomError as error:
        sheet.problems.append(str(error))
    sheet.add("fails", f"where less than {1 / spec.allowed_quality_loss:.0%} of the answers stay the same")
    return sheet


def _size_after(scheme: Scheme, shapes: Sequence[tuple[int, ...]]) -> tuple[str, int]:
    """The scheme in words, and the size in bytes of linear layers of these (outputs, inputs) shapes in it."""
    if isinstance(scheme, Int8Scheme):
        by = "token" if scheme.activations == "dynamic" else "layer"
        fixed = 2 * len(shapes) if scheme.activations == "static" else 0
        words = f"INT8 weights by output channel, INT8 activations by {by} (W8A8)"
        return words, fixed + sum(outputs * (inputs + 2) for outputs, inputs in shapes)
    if isinstance(scheme, Fp8Scheme):
        words = "FP8 weights by output channel, FP8 activations by token (W8A8)"
        return words, sum(outputs * (inputs + 2) for outputs, inputs in shapes)
    if isinstance(scheme, Nf4Scheme):
        from rayloom.export.schemes.nf4 import stored_bytes

        return "NF4 weights by bitsandbytes, for transformers only: it cannot be served", stored_bytes(shapes)
    from rayloom.export.schemes.int4 import group_size_for

    size = group_size_for(scheme, shapes)
    words = f"INT4 weights in groups of {size} by {scheme.rounding}, 16-bit activations (W4A16)"
    return words, sum(outputs * (inputs // 2 + inputs // size * 2) + 16 for outputs, inputs in shapes)
