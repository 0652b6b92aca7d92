"""The settings of a replica as plain values: what it loads, vLLM's arguments, and its environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rayloom.artifacts.store import Artifact, Store
from rayloom.models.vllm_process import is_in_fp32_on_cpu, vllm_environment
from rayloom.serve.replicas.adapters import compatible_bases
from rayloom.serve.replicas.capacity import ModelShape, read_shape
from rayloom.serve.replicas.predictor_requests import TEXT_TASK
from rayloom.specs.serve import ServedModel, ServedPredictor
from rayloom.specs.serving.engine import EngineSpec, NgramSpeculation
from rayloom.specs.training.prompted import PROMPT_FILE
from rayloom.specs.training.tasks import TASK_FILE
from rayloom.text.prompts.demonstrations import Pool


@dataclass(frozen=True)
class EngineSettings:
    """All that a replica of a model in vLLM needs to start on any node."""

    served: ServedModel
    store_uri: str
    artifact_name: str
    artifact_version: str
    base_digests: tuple[str, ...] = ()
    """Digests of the models whose adapters it can use."""
    max_answer_tokens: int | None = None
    draft: tuple[str, str] | None = None
    """Name and version of the draft model."""


@dataclass(frozen=True)
class PredictorSettings:
    """All that a replica of a predictor needs to start on any node."""

    served: ServedPredictor
    store_uri: str
    artifact_name: str
    artifact_version: str
    task: str
    """The type of the task it was trained for; `text` for a language model."""
    max_texts: int
    """Most texts in one request."""
    base_digests: tuple[str, ...] = ()
    """Always empty: predictors serve no adapters."""
    shown: Pool = field(default_factory=Pool)
    """The rows that a prompt's demonstrations are chosen from."""


ReplicaSettings = EngineSettings | PredictorSettings


def application_name(service: str, model: str, generation: int = 1) -> str:
    """The name of the Ray Serve application of one version of a model."""
    return f"{service}.{model}.{generation}"


def settings(
    served: ServedModel, artifact: Artifact, draft: Artifact | None, store: Store, max_answer_tokens: int | None
) -> EngineSettings:
    manifest = artifact.manifest
    digests = tuple(sorted(compatible_bases(artifact)))
    speculation = (draft.manifest.name, draft.manifest.version) if draft is not None else None
    return EngineSettings(served, store.uri, manifest.name, manifest.version, digests, max_answer_tokens, speculation)


def draft_of(parents: Mapping[str, Artifact], index: int) -> Artifact | None:
    """The draft model of the spec's model with this index; None if it has none."""
    return parents.get(f"models.{index}.engine.speculation.model")


def shape_of(parents: Mapping[str, Artifact], index: int, engine: EngineSpec) -> ModelShape:
    """The shape of the spec's model with this index on a node like this one, with its draft model's added.

    Raises InputError.
    """
    shape, draft = read_shape(parents[f"models.{index}.model"].path), draft_of(parents, index)
    if precision_here(engine, shape) == "fp32":
        shape = shape.in_fp32()
    return shape if draft is None else shape.with_draft(read_shape(draft.path))


VLLM_PRECISIONS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def precision_here(engine: EngineSpec, shape: ModelShape) -> str | None:
    """The number format that an engine on this node computes in; None if it is the model's own."""
    if engine.precision is not None or engine.gpus_per_replica:
        return engine.precision
    return "fp32" if is_in_fp32_on_cpu(is_quantised=shape.quantization is not None) else None


def predictor_settings(
    served: ServedPredictor, index: int, parents: Mapping[str, Artifact], store: Store, max_texts: int
) -> PredictorSettings:
    """Those of the spec's predictor with this index. Raises InputError where a prompt's rows cannot be used."""
    artifact, shown = parents[f"predictors.{index}.model"], shown_to(served, index, parents)
    task = task_type(artifact, store) if served.prompt is None else served.prompt.task.type
    manifest = artifact.manifest
    return PredictorSettings(served, store.uri, manifest.name, manifest.version, task, max_texts, (), shown)


def shown_to(served: ServedPredictor, index: int, parents: Mapping[str, Artifact]) -> Pool:
    """The rows that the demonstrations of a predictor's prompt are chosen from. Raises InputError."""
    if served.prompt is None or served.prompt.demonstrations is None:
        return Pool()
    from rayloom.models.responders.prompted_rows import rows_to_show

    start = f"predictors.{index}."
    return rows_to_show(served.prompt, {path.removeprefix(start): own for path, own in parents.items()})


def task_type(artifact: Artifact, store: Store) -> str:
    """The type of task for which a model or adapter was trained, read from the store without fetching its files."""
    folder = store.location(artifact.manifest.name, artifact.manifest.version)
    for name in (TASK_FILE, PROMPT_FILE):
        if store.filesystem.exists(f"{folder}/{name}"):
            facts = json.loads(store.read_now(f"{folder}/{name}"))
            return str(facts.get("prompt", facts)["task"]["type"])
    return TEXT_TASK


def engine_arguments(
    settings: EngineSettings, draft_folder: str | None = None, precision: str | None = None
) -> dict[str, Any]:
    """vLLM's engine arguments, without the model's path and name.

    `draft_folder`: this node's folder of the draft model. `precision`: see `precision_here`.
    """
    engine = settings.served.engine
    arguments: dict[str, Any] = {
        "max_model_len": engine.max_model_length_tokens,
        "enable_prefix_caching": engine.kv_cache.prefix_caching,
        "enforce_eager": not engine.is_compiled,
        "trust_remote_code": False,
    }
    offload_bytes = engine.kv_cache.offload_bytes
    chosen = {  # None: vLLM decides
        "max_num_seqs": engine.sequences,
        "kv_cache_memory_bytes": engine.cache_bytes,
        "dtype": None if precision is None else VLLM_PRECISIONS[precision],
        "gpu_memory_utilization": engine.gpu_memory_share,
        "max_num_batched_tokens": engine.max_batched_tokens,
        "enable_chunked_prefill": engine.chunked_prefill,
        "enable_expert_parallel": engine.expert_parallel or None,
        "kv_offloading_size": None if offload_bytes is None else offload_bytes / (1 << 30),
        "reasoning_parser": engine.reasoning_parser,
        "chat_template": settings.served.chat_template,
        "default_chat_template_kwargs": engine.chat_template_kwargs or None,
    }
    arguments |= {name: value for name, value in chosen.items() if value is not None}
    if settings.max_answer_tokens is not None:
        # vLLM uses the smallest of this, the request's limit, and the tokens left in the context.
        arguments["override_generation_config"] = {"max_new_tokens": settings.max_answer_tokens}
    adapters = settings.served.adapters
    if adapters is not None:
        arguments |= {
            "enable_lora": True,
            "max_lora_rank": adapters.max_rank,
            "max_loras": adapters.max_at_once,
            "max_cpu_loras": adapters.max_loaded,
        }
    if engine.kv_cache.block_tokens is not None:
        arguments["block_size"] = engine.kv_cache.block_tokens
    if engine.kv_cache.precision == "fp8":
        arguments["kv_cache_dtype"] = "fp8"
    if engine.tool_parser is not None:
        # By default vLLM allows any JSON as a call's arguments if the tool does not say `strict`.
        strict = {"tool_strict_level": "parameter"}
        arguments |= {"enable_auto_tool_choice": True, "tool_call_parser": engine.tool_parser, **strict}
    if engine.speculation is not None:
        arguments["speculative_config"] = _speculation(engine, draft_folder)
    if engine.gpus_per_stage > 1:
        arguments["tensor_parallel_size"] = engine.gpus_per_stage
    if engine.pipeline_stages > 1:
        arguments["pipeline_parallel_size"] = engine.pipeline_stages
    return arguments | engine.extra


def _speculation(engine: EngineSpec, draft_folder: str | None) -> dict[str, Any]:
    speculation = engine.speculation
    assert speculation is not None
    common = {"method": speculation.type, "num_speculative_tokens": speculation.num_tokens}
    if isinstance(speculation, NgramSpeculation):
        return common | {"prompt_lookup_max": speculation.longest_match_tokens}
    assert draft_folder is not None
    # vLLM requires both models on the same GPUs.
    return common | {"model": draft_folder, "draft_tensor_parallel_size": max(1, engine.gpus_per_stage)}


def environment(engine: EngineSpec) -> dict[str, str]:
    """Variables for the replica and its engine's processes, to be set before vLLM is imported."""
    num_cores = None if engine.gpus_per_replica else engine.cpus_per_replica
    # This is vLLM's own switch for one process; `engine_internals` chooses the executor. Threads inherit the replica's
    # cores (see `cores`).
    return vllm_environment(num_cores, in_one_process=True)
