"""Checks that a folder is a model that Rayloom can train, tune and serve, by loading it if memory allows."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open

from rayloom import pretrained
from rayloom.errors import InputError
from rayloom.models.context_length import context_tokens_of
from rayloom.observe.memory import available_bytes
from rayloom.text.conversations.chat_template import check_templates
from rayloom.text.tokenizer_files import stop_tokens_of

SMOKE_TEXT = "The capital of France is Paris. It lies on the river Seine."
SMOKE_MEMORY_SHARE = 0.5
"""If the weights take more than this share of the free memory, the model is not loaded, only its files are checked."""

_AGAIN = "Fetch the model again."
_FIX = "Give a Hugging Face model folder with config.json, safetensors weights and a tokenizer, or a GGUF file."


@dataclass(frozen=True)
class ModelFacts:
    """The facts about a model for its manifest and report."""

    architecture: str
    num_parameters: int
    weights_bytes: int
    vocabulary_size: int
    context_tokens: int | None
    has_chat_template: bool
    smoke_loss: float | None
    """Loss of a causal language model on one English sentence, in nats per token."""
    smoke_tested: bool

    def as_metrics(self) -> dict[str, Any]:
        return asdict(self)


def checked_model(folder: Path) -> ModelFacts:
    """Facts about the model in `folder`. Raises InputError if it is not a usable model."""
    config = _config(folder)
    weights = weight_files(folder)
    tokenizer = _tokenizer(folder)
    check_templates(tokenizer, str(folder))
    stop_tokens_of(folder / "generation_config.json")
    _check_vocabulary(tokenizer, config, folder)
    class_name = (config.architectures or ["AutoModel"])[0]
    num_parameters, weights_bytes = _sizes(weights)
    tested = weights_bytes <= SMOKE_MEMORY_SHARE * available_bytes()
    return ModelFacts(
        architecture=class_name,
        num_parameters=num_parameters,
        weights_bytes=weights_bytes,
        vocabulary_size=len(tokenizer),
        context_tokens=context_tokens_of(folder),
        has_chat_template=bool(tokenizer.chat_template),
        smoke_loss=_smoke_loss(folder, class_name, tokenizer) if tested else None,
        smoke_tested=tested,
    )


def _config(folder: Path) -> Any:
    path = folder / "config.json"
    if not path.exists():
        raise InputError("This is not a model: it has no config.json", where=str(folder), fix=_FIX)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"config.json is not JSON: {error}", where=str(path), fix=_FIX) from None
    if not isinstance(values, dict):
        raise InputError(f"config.json is no object but {type(values).__name__}", where=str(path), fix=_FIX)
    names = values.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"config.json has no list of names in architectures: {names!r:.80}", where=str(path), fix=_FIX)
    try:
        return pretrained.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 (each model's own class checks the values, by errors of any kind)
        if "auto_map" in values:
            what = "This model brings its own Python code, which Rayloom does not run"
        else:
            what = f"transformers {transformers.__version__} takes no such model: {_reason(error)}"
        raise InputError(what, where=str(path), fix="Use a model whose architecture transformers has.") from None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the model in `folder`. Raises InputError if there are none, or some are missing."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = _names_in(index)
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            what = f"The model lacks {len(missing)} of its {len(names)} weight files, such as {missing[0]}"
            raise InputError(what, where=str(folder), fix=_AGAIN)
        return [folder / name for name in names]
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        what = f"The weights are pickled ({pickled[0]}), and reading a pickle can run any code"
        raise InputError(what, where=str(folder), fix="Give the model in safetensors format.")
    raise InputError("This is not a model: it has no model.safetensors", where=str(folder), fix=_FIX)


def _names_in(index: Path) -> list[str]:
    """The files named in a safetensors index."""
    try:
        values = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"The index of weights is not JSON: {error}", where=str(index), fix=_AGAIN) from None
    weight_map = values.get("weight_map") if isinstance(values, dict) else None
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        what = "The index of weights has no `weight_map` from tensors to files"
        raise InputError(what, where=str(index), fix=_AGAIN)
    outside = [name for name in names if Path(name).name != name]
    if outside:
        what = f"The index of weights names files outside of its folder, such as {outside[0]}"
        raise InputError(what, where=str(index), fix=_AGAIN)
    return sorted(set(names))


def _check_vocabulary(tokenizer: Any, config: Any, folder: Path) -> None:
    """Raises InputError if the tokenizer has ids for which the model has no embedding."""
    size = getattr(config.get_text_config(), "vocab_size", None)
    beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if size and number >= size)
    if beyond:
        named = ", ".join(f"{token!r} ({number})" for number, token in beyond[:3])
        what = f"The tokenizer has {len(beyond)} tokens beyond the model's {size:,} embeddings, such as {named}"
        fix = "Give the tokenizer that the model was trained with, or a model whose embeddings were resized for it."
        raise InputError(what, where=str(folder), fix=fix)


def _sizes(weights: list[Path]) -> tuple[int, int]:
    parameters = 0
    for path in weights:
        try:
            with safe_open(path, framework="pt") as file:
                parameters += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            what = f"The weight file is damaged: {_reason(error)}"
            raise InputError(what, where=str(path), fix=_AGAIN) from None
    return parameters, sum(path.stat().st_size for path in weights)


def _tokenizer(folder: Path) -> Any:
    try:
        tokenizer = pretrained.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 (the tokenizers library raises plain exceptions)
        what = f"This is not a model: it has no tokenizer that loads ({_reason(error)})"
        raise InputError(what, where=str(folder), fix=_FIX) from None
    if not len(tokenizer):
        raise InputError("This is not a model: its tokenizer is empty", where=str(folder), fix=_FIX)
    return tokenizer


def _smoke_loss(folder: Path, class_name: str, tokenizer: Any) -> float | None:
    """Loads the weights and runs one sentence; the loss in nats per token, or None for a model that is not causal."""
    loader = getattr(pretrained, class_name, pretrained.AutoModel)
    try:
        model, loaded = loader.from_pretrained(folder, dtype=torch.bfloat16, output_loading_info=True)
    except Exception as error:  # noqa: BLE001 (each model's own class reads the configuration)
        what = f"The weights do not fit config.json: {_reason(error)}"
        raise InputError(what, where=str(folder), fix=_AGAIN) from None
    missing = sorted(loaded["missing_keys"])
    if missing:
        what = f"The weights lack {len(missing)} of the model's tensors, such as {missing[0]}"
        raise InputError(what, where=str(folder), fix=_AGAIN)
    is_causal = class_name.endswith(("ForCausalLM", "LMHeadModel"))
    try:
        inputs = tokenizer(SMOKE_TEXT, return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs, labels=inputs["input_ids"]) if is_causal else _forward(model, inputs)
    except Exception as error:  # noqa: BLE001 (whatever an unknown model's code does with values that are wrong)
        what = f"The model cannot compute a plain English sentence: {_reason(error)}"
        raise InputError(what, where=str(folder), fix="Correct config.json, or fetch the model again.") from None
    values = outputs.logits if "logits" in outputs else outputs.last_hidden_state
    if not bool(torch.isfinite(values).all()):
        what = "The model computes numbers that are not finite on a plain English sentence"
        raise InputError(what, where=str(folder), fix="Fetch the model again, or another one.")
    return float(outputs.loss) if is_causal else None


def _forward(model: Any, inputs: Any) -> Any:
    if model.config.is_encoder_decoder:
        return model(**inputs, decoder_input_ids=inputs["input_ids"])
    return model(**inputs)


def _reason(error: BaseException) -> str:
    """An error's first line, and the second where the first only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return (" ".join(lines[:2]) if lines[0].endswith(":") else lines[0]).rstrip(".")
