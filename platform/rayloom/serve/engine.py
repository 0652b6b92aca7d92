"""One replica as plain values: what it loads, the arguments vLLM gets, and the environment it runs in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rayloom.artifacts.store import Artifact, Store
from rayloom.serve.adapters import carries
from rayloom.serve.predictions import TEXT_TASK
from rayloom.specs.serve import Engine, ServedModel, ServedPredictor
from rayloom.specs.tasks import TASK_FILE


@dataclass(frozen=True)
class EngineSettings:
    """All that a replica needs to start on whichever node Ray puts it."""

    served: ServedModel
    store_uri: str
    artifact_name: str
    artifact_version: str
    base_digests: tuple[str, ...] = ()
    """Of the models whose adapters it can carry."""
    max_answer_tokens: int | None = None


@dataclass(frozen=True)
class PredictorSettings:
    """The same of a replica that has no engine."""

    served: ServedPredictor
    store_uri: str
    artifact_name: str
    artifact_version: str
    task: str
    """The type of what the model was trained for; `text` for nothing but to go on with it."""
    max_texts: int
    """Of one request."""
    base_digests: tuple[str, ...] = ()
    """None: it carries no further adapters."""


ReplicaSettings = EngineSettings | PredictorSettings


def application_name(service: str, model: str, generation: int = 1) -> str:
    """Of the Ray Serve application that runs one version of a model."""
    return f"{service}.{model}.{generation}"


def settings(served: ServedModel, artifact: Artifact, store: Store, max_answer_tokens: int | None) -> EngineSettings:
    manifest = artifact.manifest
    digests = tuple(sorted(carries(artifact)))
    return EngineSettings(served, store.uri, manifest.name, manifest.version, digests, max_answer_tokens)


def predictor_settings(served: ServedPredictor, artifact: Artifact, store: Store, max_texts: int) -> PredictorSettings:
    manifest = artifact.manifest
    task = task_type(artifact, store)
    return PredictorSettings(served, store.uri, manifest.name, manifest.version, task, max_texts)


def task_type(artifact: Artifact, store: Store) -> str:
    """What a model or adapter was trained for, read where it stands: the artifact's files may be elsewhere."""
    place = f"{store.location(artifact.manifest.name, artifact.manifest.version)}/{TASK_FILE}"
    if not store.filesystem.exists(place):
        return TEXT_TASK
    return str(json.loads(store.filesystem.cat_file(place))["task"]["type"])


def engine_arguments(settings: EngineSettings) -> dict[str, Any]:
    """vLLM's engine arguments, apart from the model's path and name."""
    engine = settings.served.engine
    arguments: dict[str, Any] = {
        "max_model_len": engine.max_model_length_tokens,
        "max_num_seqs": engine.max_sequences,
        "kv_cache_memory_bytes": engine.kv_cache.size_bytes,
        "enable_prefix_caching": engine.kv_cache.prefix_caching,
        "enforce_eager": not engine.compiled,
        "trust_remote_code": False,
    }
    if settings.max_answer_tokens is not None:
        # vLLM takes the least of this, of what the request asks for, and of what still fits.
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
        # By itself vLLM lets a call's arguments be any JSON where the tool does not say `strict`.
        strict = {"tool_strict_level": "parameter"}
        arguments |= {"enable_auto_tool_choice": True, "tool_call_parser": engine.tool_parser, **strict}
    if engine.speculation is not None:
        arguments["speculative_config"] = {
            "method": engine.speculation.type,
            "num_speculative_tokens": engine.speculation.num_tokens,
            "prompt_lookup_max": engine.speculation.longest_match_tokens,
        }
    if engine.gpus_per_replica > 1:
        arguments["tensor_parallel_size"] = engine.gpus_per_replica
    return arguments


def environment(engine: Engine) -> dict[str, str]:
    """Variables for the replica and its engine's processes, to be set before vLLM is imported."""
    variables = {
        # The model is on this disk; nothing about it, or about this run, is asked or told over the network.
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    if engine.gpus_per_replica:
        return variables
    return variables | {
        # One process schedules and computes. vLLM's default on a CPU is two, of which the first turns round and round
        # on a core while the second computes; it costs that core, 0.8 GB and seven seconds of start-up. vLLM's own
        # switch for it stands here; the executor is chosen in `replica`.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # Threads stay on the replica's cores by inheritance (see `cores`). vLLM's own binding gives every replica of a
        # node the same cores and keeps one of them free.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(engine.cpus_per_replica),
        # vLLM 0.32 cannot read back what it stores by this on a CPU, and compiles again each time.
        "VLLM_USE_AOT_COMPILE": "0",
    }
