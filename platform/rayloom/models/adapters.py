"""Attaches adapters to models, saves and loads them: PEFT's methods, and our bottleneck adapters and BitFit.

`load(model, folder)` loads all of them. Folders of PEFT's methods can be loaded with plain `peft` too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from rayloom.errors import InputError
from rayloom.models.bottleneck import add_bottlenecks
from rayloom.models.lora_sequence import has_earlier, joined
from rayloom.models.parts import keys_and_values, layer_of, outputs_of, part_of
from rayloom.specs.training.adapters import (
    Adapter,
    BitFit,
    BottleneckAdapter,
    Ia3Adapter,
    LoraAdapter,
    NoAdapter,
    PartsOnly,
    PrefixAdapter,
    PromptAdapter,
    PTuningAdapter,
)

TaskType = Literal["CAUSAL_LM", "FEATURE_EXTRACTION", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM"]
"""PEFT's task types. For those in HEADED_TASKS the task head is trained and saved with the adapter."""

HEADED_TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
OWN_CONFIG = "rayloom_adapter.json"
WEIGHTS = "adapter_model.safetensors"
HEADS = ("classifier", "score", "qa_outputs", "pre_classifier")
"""Names of task-head layers in transformers' architectures."""


def attach(
    model: nn.Module,
    adapter: Adapter,
    task: TaskType = "CAUSAL_LM",
    tokenizer: Path | None = None,
    fresh: Sequence[str] = (),
) -> nn.Module:
    """The model with the adapter's weights trainable and all others frozen.

    `tokenizer`: folder of the tokenizer, for a prompt initialised from text. `fresh`: modules that the base has no
    weights for; they are trained and saved with the adapter, as otherwise each loading would initialise them anew.
    Raises InputError if the method does not fit the model.
    """
    if isinstance(adapter, NoAdapter):
        return model
    if isinstance(adapter, PartsOnly):
        return _only_parts(model, adapter)
    if isinstance(adapter, (BottleneckAdapter, BitFit)):
        return _own(model, adapter, task, fresh)
    return _peft(model, adapter, task, tokenizer, fresh)


def load(model: nn.Module, folder: Path) -> nn.Module:
    """The model with the adapter in a folder, ready for inference. Raises InputError if it does not fit."""
    try:
        if (folder / OWN_CONFIG).exists():
            return _load_own(model, folder).eval()
        from peft import PeftModel

        adapted: nn.Module = PeftModel.from_pretrained(model, str(folder))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        fix = "Load it on the base that it was trained on."
        raise InputError(f"The adapter does not fit its base: {reason}", where=str(folder), fix=fix) from error
    return adapted.eval()


def save(model: nn.Module, adapter: Adapter, weights: Mapping[str, Tensor], out: Path) -> None:
    """Writes an adapter's folder. `weights`: the trained parameters by their names in the model, on the CPU."""
    saved: Any = model
    out.mkdir(parents=True, exist_ok=True)
    if not isinstance(adapter, (BottleneckAdapter, BitFit)):
        saved.save_pretrained(
            str(out), state_dict=dict(weights), save_embedding_layers=False, selected_adapters=["default"]
        )
        if has_earlier(model):
            joined(model, out)
        (out / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        return
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, out / WEIGHTS)
    settings = adapter.model_dump(mode="json") | {"base": getattr(saved.config, "name_or_path", "")}
    (out / OWN_CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """The model as its base, while the block lasts: its LoRA layers add 0 times what they would.

    PEFT's `disable_adapter` takes the adapter's weights off the graph and back, which ends hooks of an engine on them.
    """
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    scales = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:
            layer.scaling = dict.fromkeys(layer.scaling, 0.0)
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling = scale


def why_not_served(adapter: Adapter, task: TaskType = "CAUSAL_LM") -> str | None:
    """The reason why vLLM cannot load this adapter beside its base, or None if it can."""
    if isinstance(adapter, (NoAdapter, PartsOnly)):
        return None
    if task in HEADED_TASKS:
        return "it brings a task head of its own: serve it under `predictors`"
    if isinstance(adapter, LoraAdapter):
        return "vLLM refuses DoRA: merge it" if adapter.weight_decomposed else None
    if isinstance(adapter, (PrefixAdapter, PromptAdapter, PTuningAdapter)):
        return "vLLM loads LoRA only, and virtual tokens cannot be merged: serve it under `predictors`"
    if isinstance(adapter, BottleneckAdapter):
        return "vLLM loads LoRA only, and bottlenecks cannot be merged: serve it under `predictors`"
    return "vLLM loads LoRA only: merge it"


# -- parts of the model itself -----------------------------------------------------------------------------------------


def _only_parts(model: nn.Module, adapter: PartsOnly) -> nn.Module:
    for name, parameter in model.named_parameters():
        layer = layer_of(name)
        is_bias = name.endswith(".bias") and "biases" in adapter.parts
        is_wanted = is_bias or part_of(name, model) in adapter.parts
        is_low = layer is not None and layer < adapter.frozen_lower_layers
        parameter.requires_grad = is_wanted and not is_low
    _need_trained(model, f"has none of: {', '.join(adapter.parts)}")
    return model


def _need_trained(model: nn.Module, why: str) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"Nothing would be trained: {type(model).__name__} {why}", fix="Choose other parts.")


# -- bottlenecks and BitFit --------------------------------------------------------------------------------------------


def _own(model: nn.Module, adapter: BottleneckAdapter | BitFit, task: TaskType, fresh: Sequence[str] = ()) -> nn.Module:
    for parameter in model.parameters():
        parameter.requires_grad = False
    if isinstance(adapter, BottleneckAdapter):
        for name in add_bottlenecks(model, adapter.size, adapter.places):
            wrapped = model.get_submodule(name)
            for part in (wrapped.down, wrapped.up):
                part.requires_grad_(True)
    else:
        _train_biases(model)
    for name, parameter in model.named_parameters():
        is_head = task in HEADED_TASKS and name.partition(".")[0] in HEADS
        if is_head or name.rpartition(".")[0] in fresh:
            parameter.requires_grad = True
    return model


def _train_biases(model: nn.Module) -> None:
    biases = [p for name, p in model.named_parameters() if name.endswith(".bias") and layer_of(name) is not None]
    if not biases:
        what = f"BitFit trains biases, and {type(model).__name__} has none in its layers (Llama-style models do not)"
        raise InputError(what, fix="Use LoRA or IA3 here, or a model with biases, such as BERT, GPT-2 or OPT.")
    for bias in biases:
        bias.requires_grad = True


def _load_own(model: nn.Module, folder: Path) -> nn.Module:
    from pydantic import TypeAdapter
    from safetensors.torch import load_file

    settings = json.loads((folder / OWN_CONFIG).read_text(encoding="utf-8"))
    settings.pop("base", None)
    adapter = TypeAdapter(BottleneckAdapter | BitFit).validate_python(settings)
    adapted = _own(model, adapter, "CAUSAL_LM")
    weights = load_file(folder / WEIGHTS)
    known = dict(adapted.named_parameters())
    strange = sorted(name for name in weights if name not in known or known[name].shape != weights[name].shape)
    if strange:
        raise ValueError(f"{len(strange)} of its tensors have no place there, such as {strange[0]}")
    for name, tensor in weights.items():
        known[name].data.copy_(tensor)
    return adapted


# -- PEFT --------------------------------------------------------------------------------------------------------------


def _peft(
    model: nn.Module, adapter: Adapter, task: TaskType, tokenizer: Path | None, fresh: Sequence[str]
) -> nn.Module:
    from peft import get_peft_model

    if isinstance(adapter, LoraAdapter):
        _check_tied(model, adapter)
    below_head = [name for name in fresh if name not in HEADS]
    try:
        config = _CONFIGS[type(adapter)](adapter, model, task, tokenizer)
        if below_head:
            config.modules_to_save = [*(config.modules_to_save or ()), *below_head]
        # Adapters keep the precision of training; the engine has fp32 master weights.
        adapted: nn.Module = get_peft_model(model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        what = f"The adapter {adapter.type} cannot be put on {type(model).__name__}: {error}"
        raise InputError(what, fix="Correct `adapter`.") from error
    return adapted


def _check_tied(model: nn.Module, adapter: LoraAdapter) -> None:
    """Raises InputError if the adapter targets only one of two layers with tied weights.

    It could not be merged, since the other layer would change too, and vLLM stores tied weights once.
    """
    getters = [getattr(model, name, lambda: None) for name in ("get_input_embeddings", "get_output_embeddings")]
    ends: list[Any] = [get() for get in getters]
    if isinstance(adapter.target_modules, str) or None in ends or ends[0].weight is not ends[1].weight:
        return
    for name, module in model.named_modules():
        layer = name.rpartition(".")[2]
        if module in ends and any(f".{name}".endswith(f".{target}") for target in adapter.target_modules):
            what = f"adapter.target_modules takes {layer}, whose weights are the model's embeddings as well (tied)"
            fix = f"Leave {layer} out (`all-linear` does); adapter: {{type: parts, parts: [embeddings]}} trains both."
            raise InputError(what, fix=fix)


def _lora(adapter: LoraAdapter, _: nn.Module, task: TaskType, __: Path | None) -> Any:
    from peft import LoraConfig

    targets = adapter.target_modules
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.scale_alpha,
        lora_dropout=adapter.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        # A task head is trained in full; "all-linear" would add LoRA to a tagger's head.
        exclude_modules=list(HEADS) if task in HEADED_TASKS else None,
        use_rslora=adapter.rank_stabilised,
        use_dora=adapter.weight_decomposed,
        task_type=task,
    )


def _prefix(adapter: PrefixAdapter, _: nn.Module, task: TaskType, __: Path | None) -> Any:
    from peft import PrefixTuningConfig

    return PrefixTuningConfig(num_virtual_tokens=adapter.num_virtual_tokens, task_type=task)


def _prompt(adapter: PromptAdapter, _: nn.Module, task: TaskType, tokenizer: Path | None) -> Any:
    from peft import PromptTuningConfig

    words = adapter.initial_text
    settings: dict[str, Any] = {"num_virtual_tokens": adapter.num_virtual_tokens, "task_type": task}
    if words is None:
        return PromptTuningConfig(prompt_tuning_init="SAMPLE_VOCAB", **settings)
    return PromptTuningConfig(
        prompt_tuning_init="TEXT", prompt_tuning_init_text=words, tokenizer_name_or_path=str(tokenizer), **settings
    )


def _p_tuning(adapter: PTuningAdapter, _: nn.Module, task: TaskType, __: Path | None) -> Any:
    from peft import PromptEncoderConfig

    return PromptEncoderConfig(
        num_virtual_tokens=adapter.num_virtual_tokens, encoder_hidden_size=adapter.encoder_size, task_type=task
    )


def _ia3(_: Ia3Adapter, model: nn.Module, task: TaskType, __: Path | None) -> Any:
    from peft import IA3Config

    # Full names: the suffixes in PEFT's table for BERT match attention's output too.
    feed_forward = outputs_of(model, "feed_forward")
    return IA3Config(
        target_modules=keys_and_values(model) + feed_forward, feedforward_modules=feed_forward, task_type=task
    )


_CONFIGS: dict[type, Callable[..., Any]] = {
    LoraAdapter: _lora,
    PrefixAdapter: _prefix,
    PromptAdapter: _prompt,
    PTuningAdapter: _p_tuning,
    Ia3Adapter: _ia3,
}
