"""Loads models for inference, in the same arithmetic as the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from rayloom.errors import InputError
from rayloom.models.adapters import load as load_adapter
from rayloom.models.int8_linear import use_int8_arithmetic
from rayloom.models.processor import multiplies_bf16
from rayloom.models.weight_files import stored_tensors

_FIX = "Name a folder or artifact with config.json and model.safetensors of a causal language model."


def check_causal(model: Path) -> None:
    """Raises InputError if the folder has no causal language model. No weights are loaded.

    transformers would load an encoder as a causal model, but without a causal mask it sees the tokens to predict.
    """
    from rayloom.pretrained import AutoConfig, masked_model_types

    if not (model / "config.json").exists():
        raise InputError("This is not a model: it has no config.json", where=str(model), fix=_FIX)
    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The model cannot be loaded: {reason}", where=str(model), fix=_FIX) from error
    is_encoder = config.model_type in masked_model_types() and not getattr(config, "is_decoder", False)
    if is_encoder or getattr(config, "is_encoder_decoder", False):
        kind = "an encoder-decoder, which writes from a text" if config.is_encoder_decoder else "an encoder"
        what = f"This model ({config.model_type}) is {kind}: it cannot continue a text token by token"
        fix = f"{_FIX} What its own training measured stands in its report; for labels use a check of type task."
        raise InputError(what, where=str(model), fix=fix)


def load(model: Path, adapter: Path | None = None) -> nn.Module:
    """The causal model in a folder, ready for inference on this process' device: the GPU if there is one.

    Weights keep their stored precision, W8A8 layers compute in INT8 like the server, and an adapter is not merged.
    On a CPU that does not multiply bf16, bf16 weights are computed in fp32: as in the server, but for those beside W8A8
    layers, which the server computes in bf16.
    Raises InputError if the folder has no such model.
    """
    from transformers.utils.logging import disable_progress_bar

    from rayloom.pretrained import AutoModelForCausalLM

    disable_progress_bar()
    check_causal(model)
    try:
        loaded: nn.Module = AutoModelForCausalLM.from_pretrained(model, dtype="auto", use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The model cannot be loaded: {reason}", where=str(model), fix=_FIX) from error
    is_w8a8 = use_int8_arithmetic(loaded) > 0
    on_gpu = torch.cuda.is_available()
    is_quantised = getattr(loaded.config, "quantization_config", None) is not None
    if (is_w8a8 or not is_quantised) and not (on_gpu or multiplies_bf16()):
        nn.Module.float(loaded)  # leaves INT8 weights; transformers' own method refuses quantised models
    if adapter is not None:
        loaded = load_adapter(loaded, adapter)
    return loaded.eval().to("cuda" if on_gpu else "cpu")


def load_masked(model: Path, adapter: Path | None = None) -> nn.Module:
    """The masked language model in a folder, ready for inference on this process' device.

    Raises InputError if the folder has no encoder, or one without a head over its vocabulary.
    """
    from transformers.utils.logging import disable_progress_bar

    from rayloom.pretrained import AutoModelForMaskedLM

    disable_progress_bar()
    check_masked(model)
    found = AutoModelForMaskedLM.from_pretrained(model, use_safetensors=True, output_loading_info=True, dtype="auto")
    loaded: nn.Module = found[0].float()
    if missing := sorted(found[1]["missing_keys"]):
        what = f"The encoder has no head over its vocabulary: {missing[0]} is missing"
        raise InputError(what, where=str(model), fix="A cloze needs an encoder as masked language modelling leaves it.")
    if adapter is not None:
        loaded = load_adapter(loaded, adapter)
    return loaded.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def check_masked(model: Path) -> None:
    """Raises InputError if the folder has no encoder with a head over its vocabulary. No weights are loaded."""
    from rayloom.pretrained import AutoConfig, masked_model_types

    fix = "A cloze needs an encoder as masked language modelling leaves it; ask decoders by likelihood or generated."
    if not (model / "config.json").exists():
        raise InputError("This is not a model: it has no config.json", where=str(model), fix=fix)
    config = AutoConfig.from_pretrained(model)
    if config.model_type not in masked_model_types() or config.is_encoder_decoder:
        raise InputError(f"This model ({config.model_type}) predicts no masked words", where=str(model), fix=fix)
    if (missing := missing_word_head(model)) is not None:
        what = f"The encoder has no head over its vocabulary: {missing} is missing"
        raise InputError(what, where=str(model), fix=fix)


def missing_word_head(encoder: Path) -> str | None:
    """A parameter of the head that predicts masked words, if the encoder in a folder has no such head."""
    from rayloom.pretrained import AutoConfig, AutoModelForMaskedLM

    with torch.device("meta"):
        empty: Any = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(encoder))
    inside = f"{empty.base_model_prefix}."
    head = {name for name, _ in empty.named_parameters() if not name.startswith(inside)}
    # Old checkpoints call some of a head's parameters otherwise (gamma, beta), never all.
    return None if not head or head & set(stored_tensors(encoder)) else min(head)
