"""Models to train: fresh from an architecture, or a base with or without an adapter; and how they are saved."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.errors import InputError, QualityError
from rayloom.specs.train import DecoderArchitecture, LoraAdapter, TrainSpec

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
    model = from_base(base)
    if isinstance(spec.adapter, LoraAdapter):
        return with_lora(model, spec.adapter)
    return model


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


def from_base(base: Path) -> nn.Module:
    """The causal model in a folder. Raises InputError where there is none."""
    from transformers import AutoModelForCausalLM

    fix = "Name a folder or artifact with config.json and model.safetensors of a causal language model."
    if not (base / "config.json").exists():
        raise InputError("The base is not a model: it has no config.json", where=str(base), fix=fix)
    try:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(base, dtype="auto", use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The base cannot be loaded: {reason}", where=str(base), fix=fix) from error
    return model


def with_lora(model: nn.Module, adapter: LoraAdapter) -> nn.Module:
    """The model with trainable low-rank matrices beside its frozen linear layers."""
    from peft import LoraConfig, get_peft_model

    targets = adapter.target_modules
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.scale_alpha,
        lora_dropout=adapter.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    try:
        # Adapters keep the precision that training runs in; the engine holds master weights in fp32.
        adapted: nn.Module = get_peft_model(model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        raise InputError(f"LoRA cannot be put on this base: {error}", fix="Correct adapter.target_modules.") from error
    return adapted


def save_model(spec: TrainSpec, model: nn.Module, weights: Mapping[str, Tensor], tokenizer: Path, out: Path) -> None:
    """A plain transformers folder, or a plain PEFT folder, with the tokenizer's files.

    `weights`: the trained parameters by name. Raises QualityError where an adapter has learned nothing at all.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().to("cpu").contiguous() for name, tensor in weights.items()}
    saved: Any = model
    if isinstance(spec.adapter, LoraAdapter):
        _check_adapter(state)
        saved.save_pretrained(out, state_dict=state, save_embedding_layers=False)
        (out / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    else:
        saved.save_pretrained(out, state_dict=state)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, out / name)


def _check_adapter(weights: Mapping[str, Tensor]) -> None:
    """ZeRO-3 is known to save empty LoRA tensors (DeepSpeed #7900), and B starts at zero: both must be seen here."""
    for name, tensor in weights.items():
        if not tensor.numel() or not torch.linalg.vector_norm(tensor.float()) > 0:
            what = f"The adapter's {name} is empty or all zero after training"
            raise QualityError(what, fix="Train for more steps or with a higher learning rate.")
