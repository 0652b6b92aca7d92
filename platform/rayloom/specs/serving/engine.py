"""The vLLM engine of a served model: its limits, its memory, and the GPUs and cores of a replica."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from rayloom.specs.base import ModelRef, Spec
from rayloom.specs.training.hardware import DeviceName

CPU_CACHE_BYTES = 1 << 30
CPU_SEQUENCES = 32
TYPED_ARGUMENTS = {
    "max_model_len": "max_model_length_tokens",
    "max_num_seqs": "max_sequences",
    "max_num_batched_tokens": "max_batched_tokens",
    "enable_chunked_prefill": "chunked_prefill",
    "gpu_memory_utilization": "gpu_memory_share",
    "enable_expert_parallel": "expert_parallel",
    "enforce_eager": "compiled",
    "kv_cache_memory_bytes": "kv_cache.size_bytes",
    "kv_offloading_size": "kv_cache.offload_bytes",
    "enable_prefix_caching": "kv_cache.prefix_caching",
    "block_size": "kv_cache.block_tokens",
    "kv_cache_dtype": "kv_cache.precision",
    "tool_call_parser": "tool_parser",
    "enable_auto_tool_choice": "tool_parser",
    "dtype": "precision",
    "reasoning_parser": "reasoning_parser",
    "chat_template": "chat_template of the model",
    "default_chat_template_kwargs": "chat_template_kwargs",
    "speculative_config": "speculation",
    "tensor_parallel_size": "gpus_per_replica",
    "pipeline_parallel_size": "pipeline_stages",
    "enable_lora": "adapters",
    "max_lora_rank": "adapters.max_rank",
    "max_loras": "adapters.max_at_once",
    "max_cpu_loras": "adapters.max_loaded",
    "override_generation_config": "doors.max_answer_tokens",
}
"""vLLM's arguments that are set by a field of the spec, with the field's path."""
FIXED_ARGUMENTS = frozenset(
    {"model", "served_model_name", "tokenizer", "trust_remote_code", "distributed_executor_backend",
     "data_parallel_size", "host", "port", "api_key", "middleware", "lora_modules", "root_path"}
)  # fmt: skip
"""vLLM's arguments that cannot be set, because replicas depend on their values."""


class KvCache(Spec):
    """Memory for the key-value cache of running requests."""

    size_bytes: Annotated[int, Field(ge=1 << 20)] | None = None
    """Size of the cache of each replica; with GPUs, on each GPU. `rayloom plan` says how many tokens and full-length
    requests fit. Default: 1 GiB on CPUs; on GPUs what the weights leave of gpu_memory_share."""
    offload_bytes: Annotated[int, Field(ge=1 << 20)] | None = None
    """Memory of the machine for keys and values that the GPUs have no room for. Default: none."""
    prefix_caching: bool = True
    """Requests that begin alike share the computed prefix."""
    block_tokens: Literal[16, 32, 64, 128] | None = None
    """Tokens that are kept or dropped together. Default: vLLM's own, 128 on CPUs and 16 on GPUs."""
    precision: Literal["model", "fp8"] = "model"
    """fp8 holds twice the tokens, on GPUs that compute it."""


class NgramSpeculation(Spec):
    """Prompt lookup proposes what followed the last tokens earlier in a text. Faster if answers repeat their prompt."""

    type: Literal["ngram"]
    num_tokens: Annotated[int, Field(ge=1, le=16)] = 4
    """Tokens that are proposed at once; those that the model itself would not have written are dropped."""
    longest_match_tokens: Annotated[int, Field(ge=1, le=16)] = 4
    """Length of the longest sequence of tokens that is looked for in the text so far."""


class DraftSpeculation(Spec):
    """A draft model proposes the next tokens and the served one verifies them in one step: faster if the draft model is
    several times cheaper and mostly right (Leviathan et al. 2023, arXiv:2211.17192)."""

    type: Literal["draft_model"]
    model: ModelRef
    """The small model, with the same tokenizer. Its weights and cache take memory beside the served model's."""
    num_tokens: Annotated[int, Field(ge=1, le=16)] = 4
    """Tokens that are proposed at once; those that the model itself would not have written are dropped."""


Speculation = Annotated[NgramSpeculation | DraftSpeculation, Field(discriminator="type")]


class EngineSpec(Spec):
    """The vLLM engine of a replica, and its resources."""

    max_model_length_tokens: Annotated[int, Field(ge=16)] = 2048
    """Longest request, prompt and answer together."""
    max_sequences: Annotated[int, Field(ge=1)] | None = None
    """Requests that the engine computes at once; further ones wait in its queue. Default: 32 on CPUs, on GPUs vLLM's
    own (1,024 on an H100)."""
    max_batched_tokens: Annotated[int, Field(ge=16)] | None = None
    """Tokens of all requests, prompts included, that the engine computes in one step. Default: vLLM's own."""
    chunked_prefill: bool | None = None
    """Compute a long prompt in parts, between steps of other requests. Default: vLLM's own, on for language models."""
    cpus_per_replica: Annotated[int, Field(ge=1)] = 1
    """Cores that compute; without GPUs each replica has its own, which no other shares."""
    gpus_per_replica: Annotated[int, Field(ge=0)] = 0
    """GPUs that a replica's weights are spread over; 0 computes on the CPU."""
    gpu: Annotated[DeviceName | None, "unfingerprinted"] = None
    """Name of the GPUs (`H100-80GB`), for which `plan` works out whether weights, cache and CUDA graphs fit. Default:
    those of this machine; without any, nothing is worked out."""
    pipeline_stages: Annotated[int, Field(ge=1)] = 1
    """Groups of layers, one after another, for a model that does not fit the GPUs of one node: each stage has
    gpus_per_replica / pipeline_stages GPUs, which share every layer of it and should be on one node."""
    gpu_memory_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Part of each GPU's memory for weights, activations and cache. Default: vLLM's own (0.92)."""
    precision: Literal["bf16", "fp16", "fp32"] | None = None
    """Number format of weights and activations. Default: the model's own; fp32 on a CPU that cannot multiply bf16 (no
    AVX-512, AMX or the like), if weights are not quantised: several times faster there, in twice the memory."""
    expert_parallel: bool = False
    """Give each GPU whole experts of a mixture of experts, instead of a part of each."""
    compiled: bool | None = None
    """Compile the model at every start, on GPUs into CUDA graphs too. Default: only on GPUs. On CPUs it gives some 15 %
    more tokens/s for about half a minute more to start."""
    kv_cache: KvCache = KvCache()
    """Memory for the keys and values of the requests that are being answered."""
    tool_parser: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")] | None = None
    """vLLM's name for the form in which the model writes tool calls (hermes, llama3_json, …). Default: requests with
    tools are refused."""
    reasoning_parser: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")] | None = None
    """vLLM's name for the form in which the model writes its reasoning (qwen3, deepseek_r1, …), which answers then give
    in a field of its own. Default: reasoning is part of the text."""
    chat_template_kwargs: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Variables for the chat template, such as `{enable_thinking: false}`, where a request does not set them."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """More of vLLM's engine arguments, by the names that it has in Python. What a field here says is refused."""
    speculation: Speculation | None = None
    """How tokens are proposed so that one step of the model checks several. Default: they are not."""

    @property
    def is_compiled(self) -> bool:
        return bool(self.gpus_per_replica) if self.compiled is None else self.compiled

    @property
    def sequences(self) -> int | None:
        """max_sequences as a number; None if vLLM decides."""
        return CPU_SEQUENCES if self.max_sequences is None and not self.gpus_per_replica else self.max_sequences

    @property
    def cache_bytes(self) -> int | None:
        """kv_cache.size_bytes as a number; None if the cache uses the rest of a GPU's memory."""
        size_bytes = self.kv_cache.size_bytes
        return CPU_CACHE_BYTES if size_bytes is None and not self.gpus_per_replica else size_bytes

    @property
    def gpus_per_stage(self) -> int:
        """The tensor-parallel size: GPUs that share each layer."""
        return self.gpus_per_replica // self.pipeline_stages

    @model_validator(mode="after")
    def _stages_share_the_gpus_evenly(self) -> Self:
        if self.pipeline_stages > 1 and (not self.gpus_per_replica or self.gpus_per_replica % self.pipeline_stages):
            what = f"pipeline_stages: {self.pipeline_stages} does not divide gpus_per_replica: {self.gpus_per_replica}"
            raise ValueError(what)
        return self

    @model_validator(mode="after")
    def _drafts_are_not_in_stages(self) -> Self:
        if self.pipeline_stages > 1 and self.speculation is not None:
            raise ValueError("speculation does not work with pipeline stages: set pipeline_stages: 1")
        return self

    @model_validator(mode="after")
    def _some_fields_are_for_gpus(self) -> Self:
        for_gpus = {
            "kv_cache.precision: fp8": self.kv_cache.precision == "fp8",
            "kv_cache.offload_bytes": self.kv_cache.offload_bytes is not None,
            "gpu_memory_share": self.gpu_memory_share is not None,
            "expert_parallel": self.expert_parallel,
        }
        wrong = [name for name, is_set in for_gpus.items() if is_set]
        if wrong and not self.gpus_per_replica:
            raise ValueError(f"{wrong[0]} needs GPUs: set gpus_per_replica")
        if self.gpu_memory_share is not None and self.kv_cache.size_bytes is not None:
            raise ValueError("gpu_memory_share has no effect beside kv_cache.size_bytes: leave out one of the two")
        return self

    @model_validator(mode="after")
    def _extra_is_what_no_field_says(self) -> Self:
        taken = sorted(set(self.extra) & set(TYPED_ARGUMENTS))
        if taken:
            fields = ", ".join(f"{name} (use {TYPED_ARGUMENTS[name]})" for name in taken)
            raise ValueError(f"extra repeats what the spec says itself: {fields}")
        if "data_parallel_size" in self.extra:
            raise ValueError(
                "extra.data_parallel_size: several copies of a model are replicas here: set autoscaling.min_replicas "
                "and max_replicas; expert_parallel spreads a mixture's experts over the GPUs of a replica"
            )
        fixed = sorted(set(self.extra) & FIXED_ARGUMENTS)
        if fixed:
            raise ValueError(f"extra sets what Rayloom decides itself: {', '.join(fixed)}")
        return self
