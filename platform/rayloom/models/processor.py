"""This machine's processor and GPUs by name, what its CPU multiplies fast, and models in the precision that it does."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_GPUS = Path("/proc/driver/nvidia/gpus")


def machine_name() -> str:
    """Processor, usable cores and GPUs, fit for a file's name: `amd-epyc-7763-64-core-processor-2-cores`.

    Measured speeds hold for machines of the same name.
    """
    named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    parts = [named[0].partition(":")[2] if named else "cpu", f"{len(os.sched_getaffinity(0))} cores"]
    # Without torch, whose import takes seconds: jobs are looked up by this name before anything runs.
    lines = [line for gpu in sorted(_GPUS.glob("*/information")) for line in gpu.read_text().splitlines()]
    gpus = Counter(line.partition(":")[2] for line in lines if line.startswith("Model:"))
    parts += [f"{count} {gpu}" for gpu, count in sorted(gpus.items())]
    words = "".join(letter if letter.isalnum() else " " for letter in " ".join(parts).lower()).split()
    return "-".join(words)


def multiplies_bf16() -> bool:
    """Whether this CPU has vector instructions with which torch multiplies bf16 matrices (AVX-512, AMX, or Arm's)."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def multiplies_int8() -> bool:
    """Whether this CPU has instructions for products of INT8 (VNNI or AMX on x86; other architectures count as able).

    Without them torch's INT8 product takes 28 times as long as fp32's, and oneDNN's, which vLLM uses, adds pairs of
    products in 16 bits, where they can saturate.
    """
    import torch

    able = torch.cpu.get_capabilities()
    on_x86 = able.get("architecture") == "x86_64"
    return not on_x86 or any(able.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


INT8_WARNING = (
    "this processor has no INT8 instructions (VNNI, AMX): vLLM's INT8 products can saturate at 16 bits, which costs "
    "accuracy, and are slower than on one that has"
)


@contextmanager
def weights_in_fast_precision(model: nn.Module) -> Iterator[None]:
    """Inside, weights on a CPU that does not multiply bf16 are fp32, in twice the memory. Afterwards as before.

    A bf16 weight that is not changed comes back bit for bit.
    """
    import torch

    slow = [weight for weight in model.parameters() if weight.dtype == torch.bfloat16 and weight.is_cpu]
    if not slow or multiplies_bf16():
        yield
        return
    for weight in slow:
        weight.data = weight.data.float()
    try:
        yield
    finally:
        for weight in slow:
            weight.data = weight.data.to(torch.bfloat16)
