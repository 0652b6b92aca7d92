"""The environment of a process that vLLM runs in."""

from __future__ import annotations

import importlib.util
import shutil


def vllm_environment(num_cores: int | None, *, in_one_process: bool = False) -> dict[str, str]:
    """Variables to set before vLLM is imported. `num_cores`: that compute; None where GPUs do.

    `in_one_process`: on a CPU, one process schedules and computes. vLLM's default there is two, of which the first
    turns round and round on a core while the second computes; it costs that core, 0.8 GB and seven seconds of start-up.
    """
    variables = {
        # The model is on this disk; nothing about it, or about this run, is asked or told over the network.
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # What it has to say goes to standard error all the same. Its own configuration would close everybody's log
        # handlers, and Ray Serve 2.60 ends a replica whose handler is closed when the controller comes back.
        "VLLM_CONFIGURE_LOGGING": "0",
    }
    if num_cores is None:
        if importlib.util.find_spec("flashinfer_jit_cache") is None and shutil.which("nvcc") is None:
            # vLLM 0.32 samples with FlashInfer by default, whose wheel has no compiled kernels: an engine dies at its
            # start unless they are installed or can be compiled. Its other sampler gives the same distribution.
            variables["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
        return variables
    # Left to itself, vLLM binds every engine of a node to the same cores and keeps one of them free.
    variables |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(num_cores)}
    if in_one_process:
        # vLLM 0.32 cannot read back what it stores ahead of time on a CPU, and compiles again each time.
        variables |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_USE_AOT_COMPILE": "0"}
    return variables
