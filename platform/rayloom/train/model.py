"""Models to train: fresh from an architecture, or a base with or without an adapter; and how they are saved."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.errors import InputError, QualityError
from rayloom.models.adapters import attach, save
from rayloom.models.quantised import Precision, load_quantised
from rayloom.specs.adapters import LoraAdapter, NoAdapter, PartsOnly
from rayloom.specs.architectures import DecoderArchitecture
from rayloom.specs.train import TrainSpec

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


def build_model(spec: TrainSpec, base: Path | None, tokenizer: Path) -> nn.Module:
    """The model that the spec describes, in fp32 or the base's own precision, on the CPU; the same on every worker."""
    torch.manual_seed(spec.seed)
    if spec.architecture is not None:
        return fresh(spec.architecture, tokenizer)
    if base is None:
        raise ValueError("a spec without architecture needs its base")
    quantised = spec.adapter.quantised_base if isinstance(spec.adapter, LoraAdapter) else None
    compute_dtype = torch.bfloat16 if spec.precision == "bf16" else torch.float32
    return attach(from_base(base, quantised, compute_dtype), spec.adapter, tokenizer=tokenizer)


def fresh(architecture: DecoderArchitecture, tokenizer: Path) -> nn.Module:
    """A Llama-style decoder with fresh weights and the vocabulary of the tokenizer."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    loaded = AutoTokenizer.from_pretrained(tokenizer)
    specials = {
        "bos_token_id": loaded.bos_token_id,
        "eos_token_id": loaded.eos_token_id,
        "pad_token_id": loaded.pad_token_id,
    }
    model: nn.Module = LlamaForCausalLM(decoder_config(architecture, len(loaded), **specials))
    return model


def decoder_config(architecture: DecoderArchitecture, vocabulary_size: int, **specials: int | None) -> Any:
    """transformers' configuration of the architecture."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=architecture.hidden_size,
        intermediate_size=architecture.feed_forward,
        num_hidden_layers=architecture.num_layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.num_key_value_heads or architecture.heads,
        max_position_embeddings=architecture.max_positions,
        tie_word_embeddings=architecture.tied_embeddings,
        **specials,
    )


def from_base(base: Path, quantised: Precision | None = None, compute_dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """The causal model in a folder, its linear layers quantised if wished. Raises InputError where there is none."""
    from transformers import AutoModelForCausalLM

    fix = "Name a folder or artifact with config.json and model.safetensors of a causal language model."
    if not (base / "config.json").exists():
        raise InputError("The base is not a model: it has no config.json", where=str(base), fix=fix)
    try:
        if quantised is not None:
            return load_quantised(AutoModelForCausalLM, base, quantised, compute_dtype)
        model: nn.Module = AutoModelForCausalLM.from_pretrained(base, dtype="auto", use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The base cannot be loaded: {reason}", where=str(base), fix=fix) from error
    return model


def save_model(spec: TrainSpec, model: nn.Module, weights: Mapping[str, Tensor], tokenizer: Path, out: Path) -> None:
    """A plain transformers folder, or a plain PEFT folder, with the tokenizer's files.

    `weights`: the trained parameters by name. Raises QualityError where an adapter has learned nothing at all.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().to("cpu").contiguous() for name, tensor in weights.items()}
    saved: Any = model
    if isinstance(spec.adapter, NoAdapter):
        saved.save_pretrained(out, state_dict=state)
    elif isinstance(spec.adapter, PartsOnly):
        # What was not trained is what the base has stored.
        frozen = {name: p.detach().to("cpu") for name, p in model.named_parameters() if name not in state}
        saved.save_pretrained(out, state_dict=frozen | state)
    else:
        _check_adapter(state)
        save(model, spec.adapter, state, out)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, out / name)


def _check_adapter(weights: Mapping[str, Tensor]) -> None:
    """ZeRO-3 is known to save empty LoRA tensors (DeepSpeed #7900), and B starts at zero: both must be seen here."""
    for name, tensor in weights.items():
        is_zero = "lora_B" in name and not torch.linalg.vector_norm(tensor.float()) > 0
        if not tensor.numel() or is_zero:
            what = f"The adapter's {name} is empty or all zero after training"
            raise QualityError(what, fix="Train for more steps or with a higher learning rate.")
