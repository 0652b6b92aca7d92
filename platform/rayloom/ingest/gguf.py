"""Converts a GGUF file to a Hugging Face model folder: weights dequantised to bfloat16, tokenizer, chat template."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from rayloom.errors import InputError

GGUF_MAGIC = b"GGUF"


def convert(file: Path, target: Path) -> None:
    """Writes `target` as a model folder. Raises InputError if the file is not GGUF or of an unknown architecture."""
    with file.open("rb") as opened:
        if opened.read(4) != GGUF_MAGIC:
            raise InputError("This is not a GGUF file", where=str(file), fix="Check source.members or the path.")
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=transformers.GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        what = f"transformers cannot convert this GGUF file: {str(error).strip().splitlines()[0]}"
        raise InputError(what, where=str(file), fix="Give the model as a Hugging Face folder instead.") from error
    # The weights are dequantised; with a quantiser still set, transformers would refuse to save or quantise on load.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    for weights in target.glob("*.safetensors"):
        weights.chmod(0o644)  # transformers writes them with mode 0600, but a store can be shared
    tokenizer.save_pretrained(target)
