"""Models loaded for inference, in the arithmetic in which they are served."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from rayloom.errors import InputError
from rayloom.models.adapters import load as load_adapter
from rayloom.models.int8_linear import use_int8_arithmetic


def load(model: Path, adapter: Path | None = None) -> nn.Module:
    """The causal model in a folder, ready for inference on this process' device: the GPU where there is one.

    Weights stay in the precision that they are stored in; W8A8 layers multiply integers, as the server does; an
    adapter works beside its base, unmerged. Raises InputError where the folder holds no such model.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    fix = "Name a folder or artifact with config.json and model.safetensors of a causal language model."
    if not (model / "config.json").exists():
        raise InputError("This is not a model: it has no config.json", where=str(model), fix=fix)
    try:
        loaded: nn.Module = AutoModelForCausalLM.from_pretrained(model, dtype="auto", use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The model cannot be loaded: {reason}", where=str(model), fix=fix) from error
    use_int8_arithmetic(loaded)
    if adapter is not None:
        loaded = load_adapter(loaded, adapter)
    return loaded.eval().to("cuda" if torch.cuda.is_available() else "cpu")
