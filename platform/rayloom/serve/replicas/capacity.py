"""The memory of a replica and the capacity of its key-value cache, from the model's files and the spec only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rayloom.errors import InputError
from rayloom.models.context_length import context_tokens
from rayloom.models.vllm_process import rounds_activations_to_int8
from rayloom.serve.replicas.chat_template import own_templates
from rayloom.specs.serving.engine import EngineSpec

CPU_BLOCK_TOKENS = 128
GPU_BLOCK_TOKENS = 16
"""Tokens in a block, the unit in which vLLM allocates the cache."""
PROCESSES_BYTES = 1_600_000_000
"""Memory of a replica's processes without weights and cache, measured with vLLM 0.32 on a CPU."""
_BYTES_PER_VALUE = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model, from `config.json` and its weight files."""

    architecture: str
    max_positions_tokens: int | None
    kv_bytes_per_token: int | None
    """None if the attention does not cache one key and one value per head and layer."""
    weights_bytes: int
    quantization: str | None
    has_chat_template: bool
    vocabulary: int | None = None
    """Rows of the embedding."""
    draft_vocabulary: int | None = None
    """The draft model's, whose weights and cache are included above; None if there is none or it does not exist yet."""
    is_w8a8: bool = False
    """Whether weights and the inputs of their layers are INT8."""

    def in_fp32(self) -> ModelShape:
        """This shape with weights and cache of 16 bits as fp32."""
        doubled = None if self.kv_bytes_per_token is None else 2 * self.kv_bytes_per_token
        return replace(self, weights_bytes=2 * self.weights_bytes, kv_bytes_per_token=doubled)

    def with_draft(self, draft: ModelShape) -> ModelShape:
        """This shape with a draft model's weights and cache added: each token is cached for both models."""
        each = (self.kv_bytes_per_token, draft.kv_bytes_per_token)
        return replace(
            self,
            weights_bytes=self.weights_bytes + draft.weights_bytes,
            kv_bytes_per_token=None if None in each else sum(bytes_ or 0 for bytes_ in each),
            draft_vocabulary=draft.vocabulary,
        )


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in this folder. Raises InputError if there is none."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architecture = str(config["architectures"][0])
    except (OSError, ValueError, LookupError, TypeError) as error:
        fix = "Serve an artifact that holds a model: `rayloom artifacts list` shows them."
        raise InputError(
            f"There is no readable config.json of a model here: {error}", where=str(folder), fix=fix
        ) from None
    weights_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    text: dict[str, Any] = config.get("text_config") or config
    return ModelShape(
        architecture,
        context_tokens(config),
        _kv_bytes_per_token(text),
        weights_bytes,
        (config.get("quantization_config") or {}).get("quant_method"),
        bool(own_templates(folder)),
        text.get("vocab_size"),
        is_w8a8=rounds_activations_to_int8(config),
    )


def _kv_bytes_per_token(config: Mapping[str, Any]) -> int | None:
    layers, heads = config.get("num_hidden_layers"), config.get("num_attention_heads")
    latent_or_recurrent = {"kv_lora_rank", "layers_block_type", "ssm_cfg", "linear_num_key_heads"} & set(config)
    if not isinstance(layers, int) or not isinstance(heads, int) or latent_or_recurrent:
        return None
    key_value_heads = config.get("num_key_value_heads") or heads
    head_size = config.get("head_dim") or config["hidden_size"] // heads
    precision = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    # By default vLLM runs a float32 model in 16 bits.
    value_bytes = min(2, _BYTES_PER_VALUE.get(precision, 2))
    return int(2 * layers * key_value_heads * head_size * value_bytes)


@dataclass(frozen=True)
class CacheCapacity:
    """The capacity of one replica's key-value cache."""

    tokens: int
    full_length_requests: float


def cache_capacity(shape: ModelShape, engine: EngineSpec) -> CacheCapacity | None:
    """The capacity in whole blocks, as vLLM counts it; None if the cache's layout is not known here or its size depends
    on the GPU."""
    if shape.kv_bytes_per_token is None or engine.cache_bytes is None:
        return None
    usual = GPU_BLOCK_TOKENS if engine.gpus_per_replica else CPU_BLOCK_TOKENS
    block_tokens = engine.kv_cache.block_tokens or usual
    token_bytes = shape.kv_bytes_per_token // (2 if engine.kv_cache.precision == "fp8" else 1)
    blocks = engine.cache_bytes * max(1, engine.gpus_per_replica) // (token_bytes * block_tokens)
    tokens = blocks * block_tokens
    return CacheCapacity(tokens, tokens / engine.max_model_length_tokens)


def replica_bytes(shape: ModelShape, engine: EngineSpec) -> int:
    """Main memory of one replica: on a CPU including weights and cache, with GPUs the processes only."""
    if engine.gpus_per_replica:
        return PROCESSES_BYTES
    return PROCESSES_BYTES + shape.weights_bytes + (engine.cache_bytes or 0)


GRAPHS_AND_CONTEXT_BYTES = 3_000_000_000
"""Of each GPU, for the driver's context, the activations of a step and CUDA graphs; vLLM measures them at its start."""
GPU_MEMORY_SHARE = 0.92
"""vLLM's own."""


@dataclass(frozen=True)
class GpuRoom:
    """How each GPU of a replica is filled."""

    weights_bytes: int
    cache_bytes: int
    """What the engine is told, or what is left of its share."""
    usable_bytes: int
    """The engine's share of the memory, without the driver's context, activations and graphs."""
    request_bytes: int
    """The cache of one request of full length."""

    @property
    def problem(self) -> str | None:
        needed = self.weights_bytes + max(self.cache_bytes, self.request_bytes)
        if needed <= self.usable_bytes:
            return None
        cache = needed - self.weights_bytes
        return (
            f"{self.weights_bytes / 1e9:.1f} GB of weights and {cache / 1e9:.1f} GB of cache do not fit into the "
            f"{self.usable_bytes / 1e9:.1f} GB that a GPU has for them: raise gpus_per_replica, quantise the model, or "
            "lower max_model_length_tokens or kv_cache.size_bytes"
        )


def gpu_room(shape: ModelShape, engine: EngineSpec, card_bytes: int) -> GpuRoom:
    """How the GPUs of a replica are filled, each with so much memory, by weights and cache of this model."""
    weights = shape.weights_bytes // engine.gpus_per_replica
    usable = int(card_bytes * (engine.gpu_memory_share or GPU_MEMORY_SHARE)) - GRAPHS_AND_CONTEXT_BYTES
    token_bytes = (shape.kv_bytes_per_token or 0) // (2 if engine.kv_cache.precision == "fp8" else 1)
    request = token_bytes * engine.max_model_length_tokens // engine.gpus_per_replica
    cache = engine.cache_bytes if engine.cache_bytes is not None else max(0, usable - weights)
    return GpuRoom(weights, cache, usable, request)


def replicas_that_fit(each_bytes: int, each_cpus: int, available_bytes: int, num_cores: int) -> int:
    """The number of replicas for which one machine has memory and cores."""
    return min(available_bytes // each_bytes, num_cores // each_cpus)


def serving_problems(
    shape: ModelShape,
    engine: EngineSpec,
    known_architectures: frozenset[str],
    known_parsers: frozenset[str] = frozenset(),
    known_arguments: frozenset[str] = frozenset(),
) -> list[str]:
    """Reasons why vLLM cannot serve this model with these settings, each with what to do."""
    problems = []
    if known_parsers and engine.tool_parser is not None and engine.tool_parser not in known_parsers:
        names = ", ".join(sorted(known_parsers))
        problems.append(f"vLLM does not know engine.tool_parser {engine.tool_parser}: use one of {names}")
    unknown = sorted(set(engine.extra) - known_arguments) if known_arguments else []
    if unknown:
        problems.append(f"vLLM has no engine argument {unknown[0]}: correct engine.extra")
    positions, wanted = shape.max_positions_tokens, engine.max_model_length_tokens
    if positions is not None and wanted > positions:
        problems.append(
            f"engine.max_model_length_tokens is {wanted}, but the model has {positions} positions: lower it to that"
        )
    if known_architectures and shape.architecture not in known_architectures:
        problems.append(f"vLLM does not know the architecture {shape.architecture}: serve a model of one that it knows")
    if shape.quantization == "bitsandbytes":
        problems.append("this vLLM has no loader for bitsandbytes weights: quantise the 16-bit model to int8 instead")
    if shape.draft_vocabulary is not None and shape.draft_vocabulary != shape.vocabulary:
        problems.append(
            f"the draft model has a vocabulary of {shape.draft_vocabulary} and this one has {shape.vocabulary}: "
            "give engine.speculation.model one of the same tokenizer"
        )
    capacity = cache_capacity(shape, engine)
    if capacity is not None and capacity.full_length_requests < 1:
        needed = (shape.kv_bytes_per_token or 0) * wanted
        problems.append(
            f"engine.kv_cache.size_bytes holds {capacity.tokens} tokens, less than one request of {wanted}: "
            f"give it at least {needed} bytes, or lower engine.max_model_length_tokens"
        )
    return problems
