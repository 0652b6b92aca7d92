"""Environment variables, number format and cache of a process that runs vLLM."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayloom.models.processor import multiplies_bf16

ON_CPU = "RAYLOOM_VLLM_ON_CPU"
"""Set to 1 where vLLM computes on a CPU, with what `vllm_on_cpu` replaces; its other processes are left alone."""

CPU_BLOCK_TOKENS = 32
"""The smallest block of the cache that vLLM's attention takes on a CPU, where its default is 128. Prompts that begin
alike share whole blocks."""


def vllm_environment(num_cores: int | None, *, in_one_process: bool = False) -> dict[str, str]:
    """Variables to set before vLLM is imported. `num_cores`: cores for computing; None on GPUs.

    `in_one_process`: on a CPU, schedule and compute in one process. With vLLM's default of two, the first busy-waits
    while the second computes, which costs a core, 0.8 GB and seven seconds of start-up.
    """
    variables = {
        # The model is on disk: no downloads, and no usage statistics.
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # Its warnings still go to standard error. Its logging configuration would close all existing log handlers, and
        # Ray Serve 2.60 ends a replica with a closed handler when the controller restarts.
        "VLLM_CONFIGURE_LOGGING": "0",
    }
    if num_cores is None:
        if importlib.util.find_spec("flashinfer_jit_cache") is None and shutil.which("nvcc") is None:
            # vLLM 0.32 samples with FlashInfer by default, whose wheel has no compiled kernels: the engine fails to
            # start unless they are installed or can be compiled. The other sampler has the same distribution.
            variables["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
        return variables
    # By default vLLM binds all engines of a node to the same cores and leaves one core unused.
    variables |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(num_cores), ON_CPU: "1"}
    if in_one_process:
        # On a CPU, vLLM 0.32 cannot load its ahead-of-time compilation cache, and would compile each time.
        variables |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_USE_AOT_COMPILE": "0"}
    return variables


def rounds_activations_to_int8(config: Mapping[str, Any]) -> bool:
    """Whether the `config.json` is of a W8A8 model in compressed-tensors' format."""
    groups = (config.get("quantization_config") or {}).get("config_groups") or {}
    inputs = [group.get("input_activations") or {} for group in groups.values()]
    return any((one.get("type"), one.get("num_bits")) == ("int", 8) for one in inputs)


def is_in_fp32_on_cpu(*, is_quantised: bool) -> bool:
    """Whether vLLM should compute in fp32 on this machine's CPU, which is so if the CPU does not multiply bf16.

    Quantised models keep their own format. Most have no other CPU kernels; and with fp32 beside them, vLLM 0.32's INT8
    layers lost 0.096 nats of a 135M model's log-probabilities on an AMD EPYC of the third generation, 0.025 with bf16.
    """
    return not is_quantised and not multiplies_bf16()


def cpu_dtype(model: Path) -> str:
    """vLLM's `dtype` for the model in this folder on this machine's CPU."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return "float32" if is_in_fp32_on_cpu(is_quantised=bool(config.get("quantization_config"))) else "auto"


def cpu_arguments(model: Path, kv_cache_bytes: int) -> dict[str, Any]:
    """vLLM's engine arguments for writing many answers at once on this machine's CPU, with `in_one_process` set."""
    return {
        "dtype": cpu_dtype(model),
        "kv_cache_memory_bytes": kv_cache_bytes,
        "block_size": CPU_BLOCK_TOKENS,
        "enforce_eager": True,
    }
