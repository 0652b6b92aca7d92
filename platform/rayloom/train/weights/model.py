"""Builds models for training and saves them: from an architecture, or from a base with or without an adapter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.errors import InputError, QualityError
from rayloom.models.adapters import TaskType, attach, save
from rayloom.models.quantised import Precision, load_quantised
from rayloom.models.task_models import empty_task_model, save_task, trained_task_model
from rayloom.models.weight_files import stored_tensors
from rayloom.score.model_inputs import Kind, kind_of
from rayloom.score.policy_loss import without_critic
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.adapters import LoraAdapter, NoAdapter, PartsOnly, PromptAdapter, is_whole_model
from rayloom.text.tokenizer_files import TOKENIZER_FILES, copy_files
from rayloom.train.precision import DTYPES, computing_precision
from rayloom.train.weights.architectures import fresh
from rayloom.train.weights.fewer_layers import keep_layers
from rayloom.train.weights.layers import add_embedding_noise
from rayloom.train.weights.sharded import ShardedWeights, sharded_weights
from rayloom.train.weights.vocabulary import extend_embeddings

KIND_OF: dict[str, Kind] = {"causal": "decoder", "masked": "encoder", "span": "encoder-decoder"}
"""The kind of model that each objective trains."""
CPU = torch.device("cpu")
NAMES = {"causal": "causal language model", "masked": "masked language model", "span": "sequence-to-sequence model"}


def build_model(spec: TrainSpec, base: Path | None, tokenizer: Path, device: torch.device = CPU) -> nn.Module:
    """The spec's model, in fp32 or the base's precision, with the same weights on every worker.

    Fresh weights are drawn on the device, those of a base are on the CPU.
    """
    torch.manual_seed(spec.seed)
    if spec.architecture is not None:
        with device:
            return fresh(spec.architecture, tokenizer)
    if base is None:
        raise ValueError("a spec without architecture needs its base")
    quantised = spec.adapter.quantised_base if isinstance(spec.adapter, LoraAdapter) else None
    compute_dtype = DTYPES[computing_precision(spec, torch.cuda.is_available())]
    if spec.headed_task is not None:
        fewer = partial(keep_layers, wanted=spec.keep_layers)
        model = trained_task_model(base, spec.headed_task, spec.adapter, tokenizer, compute_dtype, fewer)
    else:
        objective = spec.objective_in_use.type
        whole = from_base(
            base,
            quantised,
            compute_dtype,
            objective,
            is_packed=spec.prompt is None,
            may_lack_head=objective == "masked",
        )
        whole = keep_layers(whole, spec.keep_layers)
        _extend(spec, whole, base, tokenizer)
        model = attach(whole, spec.adapter, _peft_task(spec), tokenizer)
    if spec.embedding_noise is not None:
        add_embedding_noise(model, spec.embedding_noise)
    return model


def empty_model(spec: TrainSpec, base: Path) -> nn.Module:
    """The model that `build_model` makes of a base, on torch's meta device, for counting parameters.

    It has no embeddings for new tokens, and no layer is quantised. Raises InputError if the base is of the wrong kind
    or the adapter does not fit it.
    """
    adapter = spec.adapter
    if isinstance(adapter, PromptAdapter):
        adapter = adapter.model_copy(update={"initial_text": None})  # a meta tensor has no embeddings to copy
    task, fresh = spec.headed_task, list[str]()
    if task is None:
        model = _empty_base(base, spec.objective_in_use.type, is_packed=spec.prompt is None)
    else:
        model, fresh = empty_task_model(base, task)
    model = keep_layers(model, spec.keep_layers)
    with torch.device("meta"):
        return attach(model, adapter, _peft_task(spec), fresh=fresh)


def _peft_task(spec: TrainSpec) -> TaskType:
    """PEFT's word for what the model gives. For one that predicts masked words it has none of its own."""
    if spec.headed_task is not None:
        return spec.headed_task.peft_task
    return "FEATURE_EXTRACTION" if spec.objective_in_use.type == "masked" else "CAUSAL_LM"


def sharded_model(
    spec: TrainSpec, base: Path | None, tokenizer: Path
) -> tuple[nn.Module | None, ShardedWeights | None]:
    """The model of `build_model` without weights, and these, of which a worker can take its part; or two None.

    Not for tasks, for bases that get new tokens, and for models and adapters that `sharded_weights` does not know.
    """
    is_changed = base is not None and (spec.keep_layers is not None or _has_other_tokenizer(tokenizer, base))
    if spec.task is not None or is_changed:
        return None, None
    if base is not None:
        model = empty_model(spec, base)
        _take_generation_settings(model, base)
    elif spec.architecture is not None:
        with torch.device("meta"):
            model = fresh(spec.architecture, tokenizer)
    weights = sharded_weights(spec, model, base)
    if weights is None:
        return None, None
    if spec.embedding_noise is not None:
        add_embedding_noise(model, spec.embedding_noise)
    return model, weights


def _take_generation_settings(model: Any, base: Path) -> None:
    from rayloom.pretrained import GenerationConfig

    if (base / "generation_config.json").exists():
        served = model.get_base_model() if hasattr(model, "get_base_model") else model
        served.generation_config = GenerationConfig.from_pretrained(base)


def _has_other_tokenizer(tokenizer: Path, base: Path) -> bool:
    return tokenizer != base and any(True for pattern in TOKENIZER_FILES for _ in base.glob(pattern))


def _extend(spec: TrainSpec, model: nn.Module, base: Path, tokenizer: Path) -> None:
    """Adds embeddings for tokens that the base's tokenizer does not have. Raises InputError if an adapter cannot."""
    if not _has_other_tokenizer(tokenizer, base):
        return
    from rayloom.pretrained import AutoTokenizer

    own, of_base = AutoTokenizer.from_pretrained(tokenizer), AutoTokenizer.from_pretrained(base)
    added = extend_embeddings(model, own, of_base)
    if added and not isinstance(spec.adapter, NoAdapter):
        what = f"The tokenizer has {added} tokens that the base does not know, and an adapter trains no embeddings"
        fix = "Leave adapter out, make the corpus without new_terms, or name a template without new tokens (zephyr)."
        raise InputError(what, where=str(tokenizer), fix=fix)
    if own.eos_token_id != of_base.eos_token_id:
        _stop_at(spec, model, own, tokenizer)


def _stop_at(spec: TrainSpec, model: nn.Module, own: Any, tokenizer: Path) -> None:
    """Sets the end token to the one with which the template ends a turn, so that servers stop there."""
    if not is_whole_model(spec.adapter):
        what = f"The template ends turns with {own.eos_token}, at which the base's server does not stop"
        fix = "Train whole weights, or name the template zephyr, which ends turns as the base ends texts."
        raise InputError(what, where=str(tokenizer), fix=fix)
    served: Any = model
    served.config.eos_token_id = own.eos_token_id
    if served.generation_config is not None:
        served.generation_config.eos_token_id = own.eos_token_id


def from_base(
    base: Path,
    quantised: Precision | None = None,
    compute_dtype: torch.dtype = torch.bfloat16,
    objective: str = "causal",
    *,
    is_packed: bool = True,
    may_lack_head: bool = False,
) -> nn.Module:
    """The model in a folder with the head of the objective, its linear layers quantised if `quantised` is given.

    `is_packed`: see `kind_of`. `may_lack_head`: a head that the folder has no weights for is drawn from torch's
    generator, since it is trained. Raises InputError if the folder has no such model.
    """
    with _loading(base, objective, is_packed) as (model_class, _):
        if quantised is not None:
            return load_quantised(model_class, base, quantised, compute_dtype)
        model: nn.Module
        model, loaded = model_class.from_pretrained(base, dtype="auto", use_safetensors=True, output_loading_info=True)
    inside = f"{model.base_model_prefix}."
    lacking = sorted(n for n in loaded["missing_keys"] if not may_lack_head or n.startswith(inside))
    if lacking:
        what = f"The model has no weights for {len(lacking)} of its tensors, such as {lacking[0]}"
        raise InputError(what, where=str(base), fix="Name a model with all of its weights.")
    return model


def _empty_base(base: Path, objective: str, *, is_packed: bool) -> nn.Module:
    with _loading(base, objective, is_packed) as (model_class, config), torch.device("meta"):
        stored_tensors(base)  # raises InputError if there are no weights
        model: nn.Module = model_class.from_config(config)
    return model


@contextmanager
def _loading(base: Path, objective: str, is_packed: bool) -> Iterator[tuple[Any, Any]]:
    """transformers' class for the objective, and the base's configuration. Turns loading errors into InputError."""
    from rayloom.pretrained import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    classes = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM, "span": AutoModelForSeq2SeqLM}
    fix = f"Name a folder or artifact with config.json and model.safetensors of a {NAMES[objective]}."
    if not (base / "config.json").exists():
        raise InputError("The base is not a model: it has no config.json", where=str(base), fix=fix)
    try:
        config = AutoConfig.from_pretrained(base)
        kind = kind_of(config, is_packed=is_packed)
        if KIND_OF[objective] != kind:
            what = f"The base is of kind {kind}, which objective {objective} does not train"
            raise InputError(what, where=str(base), fix=fix)
        yield classes[objective], config
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The base cannot be loaded: {reason}", where=str(base), fix=fix) from error


def save_model(spec: TrainSpec, model: nn.Module, weights: Mapping[str, Tensor], tokenizer: Path, out: Path) -> None:
    """Writes a transformers or PEFT folder with the tokenizer's files.

    `weights`: the trained parameters by name. They are saved in the spec's precision, whichever the worker computed in.
    Raises QualityError if an adapter's weights are empty or still zero.
    """
    out.mkdir(parents=True, exist_ok=True)
    dtype = DTYPES[spec.precision]
    state = {n: tensor.detach().to("cpu", dtype).contiguous() for n, tensor in without_critic(weights).items()}
    saved: Any = model
    if isinstance(spec.adapter, NoAdapter):
        saved.save_pretrained(out, state_dict=state)
    elif isinstance(spec.adapter, PartsOnly):
        # Frozen parameters are saved as they are in the base.
        frozen = {name: p.detach().to("cpu", dtype) for name, p in model.named_parameters() if name not in state}
        saved.save_pretrained(out, state_dict=frozen | state)
    else:
        _check_adapter(state)
        save(model, spec.adapter, state, out)
    if (out / "config.json").exists():
        # transformers notes the precision of the model in memory.
        config = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(
            json.dumps(config | {"dtype": str(dtype).removeprefix("torch.")}, indent=2) + "\n"
        )
    if spec.headed_task is not None:
        save_task(spec.headed_task, spec.sequence_length_tokens, out)
    copy_files(tokenizer, out)


def _check_adapter(weights: Mapping[str, Tensor]) -> None:
    """Raises QualityError if a tensor is empty (ZeRO-3 may do that, DeepSpeed #7900) or a LoRA B is still zero."""
    for name, tensor in weights.items():
        is_zero = "lora_B" in name and not torch.linalg.vector_norm(tensor.float()) > 0
        if not tensor.numel() or is_zero:
            what = f"The adapter's {name} is empty or all zero after training"
            raise QualityError(what, fix="Train for more steps or with a higher learning rate.")
