"""Models with random weights for a spec's architecture, of transformers' own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from rayloom.specs.training.architectures import (
    Architecture,
    DecoderArchitecture,
    EncoderArchitecture,
    EncoderDecoderArchitecture,
)


def fresh(architecture: Architecture, tokenizer: Path) -> nn.Module:
    """A model with random weights and the tokenizer's vocabulary size."""
    from rayloom.pretrained import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tokenizer)
    specials = {
        "bos_token_id": loaded.bos_token_id,
        "eos_token_id": loaded.eos_token_id,
        "pad_token_id": loaded.pad_token_id,
    }
    return model_of(config_of(architecture, len(loaded), **specials))


def model_of(config: Any) -> nn.Module:
    """The model of a configuration, with the language-modelling head of its kind."""
    from rayloom.pretrained import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    if config.is_encoder_decoder:
        made: nn.Module = AutoModelForSeq2SeqLM.from_config(config)
    elif config.model_type in ("bert", "modernbert"):
        made = AutoModelForMaskedLM.from_config(config)
    else:
        made = AutoModelForCausalLM.from_config(config)
    return made


def config_of(architecture: Architecture, vocabulary_size: int, **specials: int | None) -> Any:
    """transformers' configuration of the architecture. `specials`: bos_token_id, eos_token_id and pad_token_id."""
    if isinstance(architecture, EncoderDecoderArchitecture):
        return _t5(architecture, vocabulary_size, specials)
    if isinstance(architecture, EncoderArchitecture):
        make = _modernbert if architecture.family == "modernbert" else _bert
        return make(architecture, vocabulary_size, specials)
    if architecture.family == "gpt2":
        return _gpt2(architecture, vocabulary_size, specials)
    return _llama(architecture, vocabulary_size, specials)


def _llama(shape: DecoderArchitecture, vocabulary_size: int, specials: dict[str, int | None]) -> Any:
    from rayloom.pretrained import LlamaConfig

    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": shape.rope_theta}
    if shape.rope_scaling is not None:
        rope |= {"rope_type": shape.rope_scaling.type, "factor": shape.rope_scaling.factor}
        if shape.rope_scaling.type == "yarn":
            rope["original_max_position_embeddings"] = shape.rope_scaling.original_max_positions
    return LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.num_key_value_heads or shape.heads,
        hidden_act=shape.activation or "silu",
        max_position_embeddings=shape.max_positions,
        attention_dropout=shape.dropout,
        tie_word_embeddings=shape.tied_embeddings,
        rope_parameters=rope,
        **specials,
    )


def _gpt2(shape: DecoderArchitecture, vocabulary_size: int, specials: dict[str, int | None]) -> Any:
    from rayloom.pretrained import GPT2Config

    return GPT2Config(
        vocab_size=vocabulary_size,
        n_embd=shape.hidden_size,
        n_inner=shape.feed_forward,
        n_layer=shape.num_layers,
        n_head=shape.heads,
        n_positions=shape.max_positions,
        activation_function={None: "gelu_new", "gelu": "gelu_new"}.get(shape.activation, shape.activation),
        resid_pdrop=shape.dropout,
        embd_pdrop=shape.dropout,
        attn_pdrop=shape.dropout,
        tie_word_embeddings=shape.tied_embeddings,
        **specials,
    )


def _bert(shape: EncoderArchitecture, vocabulary_size: int, specials: dict[str, int | None]) -> Any:
    from rayloom.pretrained import BertConfig

    return BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.heads,
        hidden_act=shape.activation,
        max_position_embeddings=shape.max_positions,
        hidden_dropout_prob=shape.dropout,
        attention_probs_dropout_prob=shape.dropout,
        tie_word_embeddings=shape.tied_embeddings,
        **specials,
    )


def _modernbert(shape: EncoderArchitecture, vocabulary_size: int, specials: dict[str, int | None]) -> Any:
    from rayloom.pretrained import ModernBertConfig

    return ModernBertConfig(
        vocab_size=vocabulary_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.heads,
        hidden_activation=shape.activation,
        max_position_embeddings=shape.max_positions,
        attention_dropout=shape.dropout,
        embedding_dropout=shape.dropout,
        mlp_dropout=shape.dropout,
        tie_word_embeddings=shape.tied_embeddings,
        cls_token_id=specials.get("bos_token_id"),
        sep_token_id=specials.get("eos_token_id"),
        **specials,
    )


def _t5(shape: EncoderDecoderArchitecture, vocabulary_size: int, specials: dict[str, int | None]) -> Any:
    from rayloom.pretrained import T5Config

    padding = specials.get("pad_token_id")
    start = specials.get("eos_token_id") if padding is None else padding
    return T5Config(
        vocab_size=vocabulary_size,
        d_model=shape.hidden_size,
        d_kv=shape.hidden_size // shape.heads,
        d_ff=shape.feed_forward,
        num_layers=shape.num_layers,
        num_decoder_layers=shape.decoder_layers,
        num_heads=shape.heads,
        feed_forward_proj=shape.activation,
        dropout_rate=shape.dropout,
        decoder_start_token_id=start,
        **specials,
    )
