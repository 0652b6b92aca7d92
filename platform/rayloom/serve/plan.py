"""The plan of a service: sizes of models, cache and replicas, from the files and this machine; nothing is started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import RayloomError
from rayloom.models.processor import INT8_WARNING, multiplies_int8
from rayloom.observe.memory import available_bytes
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.observe.ports import check_port
from rayloom.serve.found_engines import choice_of_engine, slower_than_original
from rayloom.serve.replicas.adapters import AdapterCatalog, compatible_bases
from rayloom.serve.replicas.capacity import (
    GRAPHS_AND_CONTEXT_BYTES,
    ModelShape,
    cache_capacity,
    gpu_room,
    replica_bytes,
    replicas_that_fit,
    serving_problems,
)
from rayloom.serve.replicas.chat_template import template_note, template_problem
from rayloom.serve.replicas.engine_internals import engine_arguments_known, served_architectures, tool_parsers
from rayloom.serve.replicas.engine_settings import draft_of, precision_here, shape_of, shown_to, task_type
from rayloom.serve.replicas.predictor_requests import TEXT_TASK, endpoint_of
from rayloom.specs.serve import ServedModel, ServedPredictor, ServeSpec
from rayloom.specs.serving.engine import EngineSpec
from rayloom.specs.training.hardware import DEVICES


def plan(spec: ServeSpec, parents: Mapping[str, Artifact], job_directory: Path) -> PlanSheet:
    """For each model: its size, the capacity of its cache, a replica's resources, and how many replicas fit here."""
    sheet = PlanSheet()
    sheet.add("address", f"http://{spec.host}:{spec.port}")
    try:
        check_port(spec.host, spec.port)
    except RayloomError as error:
        sheet.warnings.append(str(error))
    for index, served in enumerate(spec.models):
        artifact = parents.get(f"models.{index}.model")
        if artifact is None:
            continue
        sheet.add(served.name, artifact.id)
        _add_found(sheet, served, artifact)
        try:
            draft = draft_of(parents, index)
            if draft is not None:
                sheet.add("  draft model", draft.id)
            _add_model(sheet, served, shape_of(parents, index, served.engine))
            add_template(sheet, served, artifact)
            _add_adapters(sheet, served, artifact, Store.beside(job_directory))
        except RayloomError as error:
            sheet.problems.append(str(error))
    for index, predictor in enumerate(spec.predictors):
        artifact = parents.get(f"predictors.{index}.model")
        if artifact is not None:
            sheet.add(predictor.name, artifact.id)
            try:
                shown_to(predictor, index, parents)
                _add_predictor(sheet, predictor, artifact, Store.beside(job_directory))
            except RayloomError as error:
                sheet.problems.append(f"{predictor.name}: {error}")
    return sheet


def _add_found(sheet: PlanSheet, served: ServedModel, artifact: Artifact) -> None:
    """Adds what searches on this kind of machine found for the model."""
    if (chosen := choice_of_engine(served, artifact)) is not None:
        sheet.add("  engine settings", chosen)
    if (slower := slower_than_original(served, artifact)) is not None:
        sheet.problems.append(f"{served.name}: {slower}")


def add_template(sheet: PlanSheet, served: ServedModel, artifact: Artifact) -> None:
    if served.chat_template is None:
        return
    if (problem := template_problem(served)) is not None:
        sheet.problems.append(f"{served.name}: {problem}")
    elif (note := template_note(served, artifact)) is not None:
        sheet.warnings.append(note)
    else:
        sheet.add("  chat template", "the job's, which is the one that the model was trained with")


def _add_predictor(sheet: PlanSheet, served: ServedPredictor, artifact: Artifact, store: Store) -> None:
    from rayloom.models.responders.subject import Subject

    task, subject = task_type(artifact, store), Subject.of("model", artifact, store)
    if served.prompt is not None:
        from rayloom.models.responders.prompted import PromptedModel

        PromptedModel(subject, served.prompt).check()
        task = served.prompt.task.type
    elif task == TEXT_TASK:
        subject.renderer  # noqa: B018 (raises if the model has no chat template)
    weights_bytes = sum(file.stat().st_size for file in subject.base.glob("*.safetensors"))
    batching, scaling = served.batching, served.autoscaling
    sheet.add("  answers", f"{endpoint_of(task).path} ({task.replace('_', ' ')})")
    sheet.add(
        "  weights",
        f"{weights_bytes / 1e6:,.0f} MB" + (", with an adapter beside them" * (subject.adapter is not None)),
    )
    sheet.add("  batches", f"up to {batching.max_texts} texts, the first of which waits {batching.wait_seconds:g} s")
    sheet.add("  replicas", f"{scaling.min_replicas} to {scaling.max_replicas} of {served.cpus_per_replica} cores")


def _add_model(sheet: PlanSheet, served: ServedModel, shape: ModelShape) -> None:
    engine = served.engine
    sheet.add("  weights", f"{shape.weights_bytes / 1e6:,.0f} MB of {shape.architecture}")
    precision = precision_here(engine, shape)
    if precision != engine.precision:
        sheet.add("  precision", f"{precision} on a processor like this one, which cannot multiply bf16")
    if shape.is_w8a8 and not engine.gpus_per_replica and not multiplies_int8():
        sheet.warnings.append(f"{served.name}: {INT8_WARNING}")
    capacity = cache_capacity(shape, engine)
    cache = f"{(engine.cache_bytes or 0) / 1e6:,.0f} MB per replica"
    if engine.cache_bytes is None:
        share = "vLLM's share" if engine.gpu_memory_share is None else f"{engine.gpu_memory_share:.0%}"
        cache = f"what the weights leave of {share} of each GPU's memory"
    if capacity is not None:
        cache += (
            f": {capacity.tokens:,} tokens of {shape.kv_bytes_per_token:,} bytes, "
            f"{capacity.full_length_requests:.1f} requests of the full {engine.max_model_length_tokens:,} tokens"
        )
    sheet.add("  key-value cache", cache)
    _add_gpus(sheet, served, shape)
    _add_replicas(sheet, served, shape)
    sheet.problems += [
        f"{served.name}: {problem}"
        for problem in serving_problems(shape, engine, served_architectures(), tool_parsers(), engine_arguments_known())
    ]
    if not shape.has_chat_template and served.chat_template is None:
        sheet.warnings.append(
            f"{served.name} has no chat template: /v1/chat/completions refuses, /v1/completions works"
        )


def _add_gpus(sheet: PlanSheet, served: ServedModel, shape: ModelShape) -> None:
    engine = served.engine
    card_bytes = _card_bytes(engine) if engine.gpus_per_replica else None
    if card_bytes is None:
        return
    room = gpu_room(shape, engine, card_bytes)
    requests = f", {room.cache_bytes / room.request_bytes:,.0f} requests of full length" if room.request_bytes else ""
    sheet.add(
        "  each GPU",
        f"{room.weights_bytes / 1e9:,.1f} GB of weights, {room.cache_bytes / 1e9:,.1f} GB of cache{requests}; "
        f"{GRAPHS_AND_CONTEXT_BYTES / 1e9:.0f} GB for graphs and the driver",
    )
    if room.problem is not None:
        sheet.problems.append(f"{served.name}: {room.problem}")


def _card_bytes(engine: EngineSpec) -> int | None:
    """Memory of each GPU that is planned for; None if it is not known."""
    if engine.gpu is not None:
        return DEVICES[engine.gpu].memory_bytes
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _add_adapters(sheet: PlanSheet, served: ServedModel, artifact: Artifact, store: Store) -> None:
    if served.adapters is None:
        return
    catalog = AdapterCatalog(store, served.name, served.adapters, compatible_bases(artifact))
    sheet.add("  adapters now", ", ".join(catalog.names()) or "none that fit")
    sheet.warnings += [
        f"{adapter} will not load on {served.name}: {reason}" for adapter, reason in catalog.unusable().items()
    ]


def _add_replicas(sheet: PlanSheet, served: ServedModel, shape: ModelShape) -> None:
    scaling, engine = served.autoscaling, served.engine
    each = replica_bytes(shape, engine)
    takes = f"{engine.cpus_per_replica} cores and about {each / 1e9:.1f} GB"
    if engine.gpus_per_replica:
        takes += f", {engine.gpus_per_replica} GPUs"
    sheet.add("  a replica takes", takes)
    growth = (
        f"{scaling.min_replicas} to {scaling.max_replicas}, aiming at {scaling.target_ongoing_requests:g} requests each"
    )
    sheet.add("  replicas", growth)
    if "RAY_ADDRESS" in os.environ:
        return
    num_cores = len(os.sched_getaffinity(0))
    fit = replicas_that_fit(each, engine.cpus_per_replica, available_bytes(), num_cores)
    sheet.add("  fit on this machine", f"{fit} ({available_bytes() / 1e9:.1f} GB free, {num_cores} cores)")
    if fit < scaling.max_replicas:
        sheet.problems.append(
            f"{served.name} may grow to {scaling.max_replicas} replicas, and {fit} fit on this machine"
        )
