"""The size of a model, from its architecture or its base's configuration, without loading weights.

Shapes: L layers, D hidden size, F feed-forward size, H heads, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rayloom.errors import InputError
from rayloom.models.responders.subject import Subject
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.adapters import LoraAdapter, NoAdapter
from rayloom.specs.training.architectures import Architecture
from rayloom.train.job import TrainJob

ATTENTION_DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
FEED_FORWARD_SIZES = ("intermediate_size", "d_ff", "n_inner")
HEAD_SIZES = ("head_dim", "d_kv")
"""Names of these settings in the configurations of different architectures."""


@dataclass(frozen=True)
class ModelSize:
    """Parameter counts, and the dimensions that memory and FLOPs depend on."""

    parameters: int
    """All parameters; tied ones are counted once."""
    trained: int
    multiplied: int
    """Parameters of matrix products with a token, output head included. Embedding tables, which are only looked up, do
    not count, and of a mixture only as many experts as a token has."""
    num_layers: int
    hidden_size: int
    feed_forward_size: int
    """In a mixture, of all experts of a token together."""
    vocabulary_size: int
    num_heads: int
    num_key_value_heads: int
    head_size: int
    """Not always hidden_size / num_heads."""
    multiplied_in_decoder: int = 0
    """Part of `multiplied` in the decoder and output head of an encoder-decoder; 0 for others."""
    quantised: int = 0
    """Parameters that are stored in 4 or 8 bits."""
    model_type: str = ""
    """As transformers calls the architecture."""
    is_gated: bool = True
    """Whether the feed-forward layers are gated (as in Llama, not in BERT)."""
    has_attention_dropout: bool = False
    dropped_inputs: int = 0
    """Input features of LoRA layers with dropout, summed over all of them."""
    decomposed_outputs: int = 0
    """Output features of DoRA layers, summed over all of them."""
    experts: int = 0
    """Parameters of all experts of mixtures."""
    trained_experts: int = 0
    num_experts: int = 0
    """In each layer that has some; 0 for other models."""
    experts_per_token: int = 0
    mixture_layers: int = 0
    of_teacher: ModelSize | None = None
    """Size of the frozen teacher that is computed beside the model."""


def size_of_job(job: TrainJob) -> ModelSize:
    """The size of the model that a job trains, and of its teacher. Raises InputError if a base is not a model."""
    return with_teachers_size(_size_of_student(job), job.spec, job.teacher)


def with_teachers_size(size: ModelSize, spec: TrainSpec, teacher: Subject | None) -> ModelSize:
    """The size with that of the teacher, if it is computed beside the student."""
    asked = spec.teacher_in_use
    if teacher is None or asked is None or asked.recorded is not None:
        return size
    plain = {"adapter": NoAdapter(type="none"), "keep_layers": None}
    return replace(size, of_teacher=size_of_base(spec.model_copy(update=plain), teacher.base))


def _size_of_student(job: TrainJob) -> ModelSize:
    spec = job.spec
    if spec.architecture is not None:
        from rayloom.pretrained import AutoTokenizer

        return size_of_architecture(spec.architecture, len(AutoTokenizer.from_pretrained(job.tokenizer)))
    if job.base is None:
        raise InputError("There is neither base nor architecture", fix="Give one of them.")
    return size_of_base(spec, job.base)


def size_of_architecture(architecture: Architecture, vocabulary_size: int) -> ModelSize:
    """The size of an architecture, counted on a model on the meta device."""
    import torch

    from rayloom.train.weights.architectures import config_of, model_of

    with torch.device("meta"):
        model = model_of(config_of(architecture, vocabulary_size, bos_token_id=1, eos_token_id=1, pad_token_id=0))
    return size_of_model(model)


def size_of_model(model: Any) -> ModelSize:
    """The size of a model on any device."""
    import torch

    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    mixture = _mixture_of(model)
    multiplied, in_decoder = mixture.pop("multiplied", 0), 0
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None and weight.dim() == 2 and not isinstance(module, torch.nn.Embedding):
            # Quantised weights are packed, so their count comes from the layer's features.
            count = getattr(module, "in_features", 0) * getattr(module, "out_features", 0) or weight.numel()
            multiplied += count
            in_decoder += count if name.startswith(("decoder.", "lm_head")) else 0
    lora: list[Any] = [module for module in model.modules() if hasattr(module, "lora_dropout")]
    config = model.config
    heads = int(config.num_attention_heads)
    widths = (getattr(config, name, None) for name in FEED_FORWARD_SIZES)
    head_sizes = (getattr(config, name, None) for name in HEAD_SIZES)
    feed_forward = int(next((width for width in widths if width), 4 * config.hidden_size))
    if mixture:
        width = getattr(config, "moe_intermediate_size", None) or feed_forward
        shared = getattr(config, "shared_expert_intermediate_size", None) or 0
        feed_forward = mixture["experts_per_token"] * width + shared
    return ModelSize(
        parameters=sum(count for count, _ in sizes),
        trained=sum(count for count, is_trained in sizes if is_trained),
        multiplied=multiplied,
        num_layers=int(config.num_hidden_layers),
        hidden_size=int(config.hidden_size),
        feed_forward_size=feed_forward,
        vocabulary_size=int(config.vocab_size),
        num_heads=heads,
        num_key_value_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_size=int(next((size for size in head_sizes if size), config.hidden_size // heads)),
        multiplied_in_decoder=in_decoder if getattr(config, "is_encoder_decoder", False) else 0,
        model_type=str(config.model_type),
        is_gated=_is_gated([tuple(p.shape) for p in model.parameters()], int(config.hidden_size), feed_forward),
        has_attention_dropout=any(getattr(config, name, 0) for name in ATTENTION_DROPOUTS),
        dropped_inputs=sum(layer.in_features for layer in lora if _drops(layer)),
        decomposed_outputs=sum(layer.out_features for layer in lora if len(layer.lora_magnitude_vector)),
        **mixture,
    )


def _mixture_of(model: Any) -> dict[str, Any]:
    """What a size says of experts, which transformers keeps as tensors of three dimensions, that of experts first."""
    holders = (module for module in model.modules() if hasattr(module, "num_experts"))
    layers = [[p for p in module.parameters(recurse=False) if p.dim() == 3] for module in holders]
    layers = [layer for layer in layers if layer]
    if not layers:
        return {}
    count = len(layers[0][0])
    per_token = int(getattr(model.config, "num_experts_per_tok", None) or count)
    experts = sum(p.numel() for layer in layers for p in layer)
    return {
        "multiplied": experts * per_token // count,
        "experts": experts,
        "trained_experts": sum(p.numel() for layer in layers for p in layer if p.requires_grad),
        "num_experts": count,
        "experts_per_token": per_token,
        "mixture_layers": len(layers),
    }


def _is_gated(shapes: Sequence[tuple[int, ...]], hidden_size: int, feed_forward_size: int) -> bool:
    """Whether the feed-forward layers have more input than output matrices, or none of these shapes (fused gates)."""
    num_into = shapes.count((feed_forward_size, hidden_size))
    return num_into == 0 or num_into != shapes.count((hidden_size, feed_forward_size))


def _drops(layer: Any) -> bool:
    import torch

    return any(isinstance(module, torch.nn.Dropout) for module in layer.lora_dropout.values())


def size_of_base(spec: TrainSpec, base: Path) -> ModelSize:
    """The size of a base with the spec's adapter, counted on a model on the meta device.

    Raises InputError if the base is of the wrong kind, or the adapter does not fit it.
    """
    from rayloom.models.quantised import num_quantised
    from rayloom.train.weights.model import empty_model

    model = empty_model(spec, base)
    is_quantised = isinstance(spec.adapter, LoraAdapter) and spec.adapter.quantised_base is not None
    return replace(size_of_model(model), quantised=num_quantised(model) if is_quantised else 0)
