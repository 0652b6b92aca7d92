"""Whether a folder is a model that the rest of Rayloom can train, tune and serve, found out by loading it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open

from rayloom.errors import InputError
from rayloom.observe.memory import available_bytes

SMOKE_TEXT = "The capital of France is Paris. It lies on the river Seine."
SMOKE_MEMORY_SHARE = 0.5
"""A model whose weights take more of the free memory than this is not loaded here, only its files are read."""

_FIX = "Give a Hugging Face model folder with config.json, safetensors weights and a tokenizer, or a GGUF file."


@dataclass(frozen=True)
class ModelFacts:
    """What the manifest and the report say about a model."""

    architecture: str
    num_parameters: int
    weights_bytes: int
    vocabulary_size: int
    context_tokens: int | None
    has_chat_template: bool
    smoke_loss: float | None
    """Loss on one English sentence, in nats per token, where the architecture has a language model head."""
    smoke_tested: bool

    def as_metrics(self) -> dict[str, Any]:
        return asdict(self)


def checked_model(folder: Path) -> ModelFacts:
    """Facts about the model in `folder`. Raises InputError where it is not one."""
    config = _config(folder)
    weights = weight_files(folder)
    tokenizer = _tokenizer(folder)
    class_name = (config.architectures or ["AutoModel"])[0]
    num_parameters, weights_bytes = _sizes(weights)
    tested = weights_bytes <= SMOKE_MEMORY_SHARE * available_bytes()
    return ModelFacts(
        architecture=class_name,
        num_parameters=num_parameters,
        weights_bytes=weights_bytes,
        vocabulary_size=len(tokenizer),
        context_tokens=getattr(config, "max_position_embeddings", None),
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
    except ValueError as error:
        raise InputError(f"config.json is not JSON: {error}", where=str(path), fix=_FIX) from None
    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError, TypeError) as error:
        if isinstance(values, dict) and "auto_map" in values:
            what = "This model brings its own Python code, which Rayloom does not run"
        else:
            what = f"transformers {transformers.__version__} knows no such model: {_first_line(error)}"
        raise InputError(what, where=str(path), fix="Use a model whose architecture transformers has.") from None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the model in `folder`. Raises InputError where it has none, or not all of them."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            what = f"The model lacks {len(missing)} of its {len(names)} weight files, such as {missing[0]}"
            raise InputError(what, where=str(folder), fix="Fetch the model again.")
        return [folder / name for name in names]
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        what = f"The weights are pickled ({pickled[0]}), and reading a pickle can run any code"
        raise InputError(what, where=str(folder), fix="Give the model in safetensors format.")
    raise InputError("This is not a model: it has no model.safetensors", where=str(folder), fix=_FIX)


def _sizes(weights: list[Path]) -> tuple[int, int]:
    parameters = 0
    for path in weights:
        try:
            with safe_open(path, framework="pt") as file:
                parameters += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            what = f"The weight file is damaged: {_first_line(error)}"
            raise InputError(what, where=str(path), fix="Fetch the model again.") from None
    return parameters, sum(path.stat().st_size for path in weights)


def _tokenizer(folder: Path) -> Any:
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError, TypeError, AttributeError) as error:
        what = f"This is not a model: it has no tokenizer that loads ({_first_line(error)})"
        raise InputError(what, where=str(folder), fix=_FIX) from None
    if not len(tokenizer):
        raise InputError("This is not a model: its tokenizer is empty", where=str(folder), fix=_FIX)
    return tokenizer


def _smoke_loss(folder: Path, class_name: str, tokenizer: Any) -> float | None:
    """Loads the weights and runs one sentence through them; None where the model does not predict its own input."""
    loader = getattr(transformers, class_name, transformers.AutoModel)
    try:
        model, loaded = loader.from_pretrained(folder, dtype=torch.bfloat16, output_loading_info=True)
    except (RuntimeError, ValueError, OSError, SafetensorError) as error:
        what = f"The weights do not fit config.json: {_first_line(error)}"
        raise InputError(what, where=str(folder), fix="Fetch the model again.") from None
    missing = sorted(loaded["missing_keys"])
    if missing:
        what = f"The weights lack {len(missing)} of the model's tensors, such as {missing[0]}"
        raise InputError(what, where=str(folder), fix="Fetch the model again.")
    inputs = tokenizer(SMOKE_TEXT, return_tensors="pt")
    is_causal = class_name.endswith(("ForCausalLM", "LMHeadModel"))
    ids = inputs["input_ids"]
    with torch.no_grad():
        outputs = model(**inputs, labels=ids) if is_causal else _forward(model, inputs)
    values = outputs.logits if "logits" in outputs else outputs.last_hidden_state
    if not bool(torch.isfinite(values).all()):
        what = "The model computes numbers that are not finite on a plain English sentence"
        raise InputError(what, where=str(folder), fix="Fetch the model again, or another one.")
    return float(outputs.loss) if is_causal else None


def _forward(model: Any, inputs: Any) -> Any:
    if model.config.is_encoder_decoder:
        return model(**inputs, decoder_input_ids=inputs["input_ids"])
    return model(**inputs)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
