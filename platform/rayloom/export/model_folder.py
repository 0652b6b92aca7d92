"""A Hugging Face model folder: its configuration, its model, and the files that a server needs beside the weights.

Not covered: models with their own code (`trust_remote_code` stays off).
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayloom.errors import InputError, ResourceError
from rayloom.models.weight_files import FLOAT_TYPES, stored_tensors
from rayloom.observe.memory import available_bytes
from rayloom.specs.training.prompted import PROMPT_FILE, SHOWN_FILE
from rayloom.text.tokenizer_files import TOKENIZER_FILES, copy_files

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

COMPANIONS = (*TOKENIZER_FILES, "generation_config.json", "LICENSE*", "NOTICE*")
"""Files that are copied unchanged when the weights are merged or quantised."""
_FIX = "Name a model in Hugging Face format: config.json, safetensors weights and a tokenizer."


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model, and its parsed `config.json`."""

    path: Path
    config: dict[str, Any]

    @classmethod
    def of(cls, path: Path) -> ModelFolder:
        """The model folder at `path`. Raises InputError if there is no model."""
        try:
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError("This is not a model: it has no config.json", where=str(path), fix=_FIX) from None
        except ValueError as error:
            what = f"This is not a model: its config.json is not JSON ({error})"
            raise InputError(what, where=str(path), fix=_FIX) from None
        if not isinstance(config, dict) or not config.get("architectures"):
            raise InputError("This is not a model: config.json names no architecture", where=str(path), fix=_FIX)
        return cls(path, config)

    @property
    def architecture(self) -> str:
        return str(self.config["architectures"][0])

    @property
    def quantization(self) -> str | None:
        """The quantisation method of the stored weights, or None."""
        config = self.config.get("quantization_config")
        return str(config.get("quant_method", "unknown")) if isinstance(config, dict) else None

    @property
    def is_causal(self) -> bool:
        """Whether it is a causal language model, which perplexity and the text server need."""
        return self.architecture.endswith(("ForCausalLM", "LMHeadModel"))

    @property
    def stored_dtype(self) -> torch.dtype:
        """The type of most stored weights; a model that is loaded with it stays memory-mapped."""
        import torch

        counts: Counter[str] = Counter()
        for tensor in stored_tensors(self.path).values():
            counts[tensor.type] += tensor.num_values if tensor.type in FLOAT_TYPES else 0
        dtype: torch.dtype = getattr(torch, FLOAT_TYPES.get(counts.most_common(1)[0][0], "float32"))
        return dtype

    def skeleton(self) -> PreTrainedModel:
        """The model on the meta device: layers and shapes without weights, so it takes no memory."""
        import torch

        from rayloom.pretrained import AutoConfig

        config = AutoConfig.from_pretrained(self.path)
        with torch.device("meta"):
            return self.model_class()(config)

    def load(self, dtype: torch.dtype) -> PreTrainedModel:
        """The model on the CPU in evaluation mode. Raises InputError if weights and configuration do not match."""
        import transformers
        from safetensors import SafetensorError

        transformers.utils.logging.disable_progress_bar()
        try:
            model, loaded = self.model_class().from_pretrained(self.path, dtype=dtype, output_loading_info=True)
        except (RuntimeError, ValueError, OSError, SafetensorError) as error:
            what = f"The model does not load: {first_line(error)}"
            raise InputError(what, where=str(self.path), fix="Make or fetch it again.") from None
        if loaded["missing_keys"]:
            what = f"The weights lack {len(loaded['missing_keys'])} tensors, such as {min(loaded['missing_keys'])}"
            raise InputError(what, where=str(self.path), fix="Make or fetch it again.")
        return model.eval()

    def model_class(self) -> Any:
        """The class of the architecture in transformers. Raises InputError if there is none."""
        from rayloom import pretrained

        model_type = getattr(pretrained, self.architecture, None)
        if model_type is None:
            import transformers

            what = f"transformers {transformers.__version__} has no {self.architecture}"
            raise InputError(what, where=str(self.path), fix="Use a model whose architecture transformers has.")
        return model_type

    def copy_companions(self, target: Path) -> None:
        """Copies tokenizer, chat template, generation defaults and licence unchanged; overwrites existing files."""
        copy_companions(self.path, target)


def copy_companions(source: Path, target: Path, *, with_prompt: bool = True) -> None:
    """Copies them, and the prompt that the model was trained on, if it was."""
    copy_files(source, target, (*COMPANIONS, *((PROMPT_FILE, SHOWN_FILE) if with_prompt else ())))


def check_memory(needed_bytes: int, doing: str) -> None:
    """Raises ResourceError if less memory is free than needed. `doing`: the work, for the message."""
    free = available_bytes()
    if needed_bytes > free:
        what = f"{doing} takes about {needed_bytes / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
        raise ResourceError(what, fix="Run it on a machine with more memory, or free some.")


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
