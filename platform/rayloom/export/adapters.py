"""A PEFT adapter folder, read and checked before its base model is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayloom.errors import InputError
from rayloom.models.weight_files import StoredTensor, stored_tensors

WEIGHTS = "adapter_model.safetensors"
PROMPT_METHODS = {
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT",
}  # fmt: skip
"""Methods that add tokens, or keys and values, instead of changing weights (names as in PEFT's `PeftType`)."""
_FIX = "Name an adapter made by a `train` job with an `adapter`."


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter that can be merged into its base's weights."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]

    @classmethod
    def of(cls, path: Path) -> AdapterFolder:
        """The adapter at `path`. Raises InputError if there is none, it is incomplete, or it cannot be merged."""
        try:
            config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            what = "This is not an adapter: it has no adapter_config.json"
            raise InputError(what, where=str(path), fix=_FIX) from None
        except ValueError as error:
            what = f"This is not an adapter: its adapter_config.json is not JSON ({error})"
            raise InputError(what, where=str(path), fix=_FIX) from None
        adapter = cls(path, config, stored_tensors(path, WEIGHTS))
        adapter._check_method()
        adapter._check_whole()
        return adapter

    @property
    def method(self) -> str:
        """PEFT's name of the method: `LORA`, `IA3` and so on."""
        return str(self.config.get("peft_type", "unknown"))

    @property
    def num_values(self) -> int:
        return sum(tensor.num_values for tensor in self.tensors.values())

    @property
    def described(self) -> str:
        """For messages: `LORA of rank 16, 4,884,480 values`."""
        rank = f" of rank {self.config['r']}" if self.config.get("r") else ""
        variant = " (DoRA)" if self.config.get("use_dora") else ""
        return f"{self.method}{variant}{rank}, {self.num_values:,} values"

    def _check_method(self) -> None:
        if self.method in PROMPT_METHODS:
            what = f"A {self.method} adapter adds to the prompt, not to weights: it cannot be merged"
            raise InputError(what, where=str(self.path), fix="Serve it beside its base instead.")

    def _check_whole(self) -> None:
        empty = sorted(name for name, tensor in self.tensors.items() if not tensor.num_values)
        if empty or not self.tensors:
            what = f"The adapter was saved without its values ({empty[0] if empty else 'it has no tensor'})"
            fix = "Train it again; a sharded run has to gather its weights before it saves them."
            raise InputError(what, where=str(self.path), fix=fix)


def check_values(adapter: AdapterFolder) -> float:
    """The norm of a LoRA adapter's B matrices, else 0. Raises InputError if they are zero or a value is not finite."""
    import torch
    from safetensors.torch import load_file

    values = load_file(adapter.path / WEIGHTS)
    total = 0.0
    for name, tensor in values.items():
        if not bool(torch.isfinite(tensor).all()):
            what = f"The adapter holds numbers that are not finite ({name})"
            raise InputError(what, where=str(adapter.path), fix="Train it again, with a lower learning rate.")
        if _starts_at_zero(name):
            total += float(tensor.double().square().sum())
    if total == 0.0 and any(_starts_at_zero(name) for name in values):
        what = "Every update of this adapter is zero: it was never trained, or saved without its values"
        raise InputError(what, where=str(adapter.path), fix="Train it again and check that its loss falls.")
    return float(total**0.5)


def _starts_at_zero(name: str) -> bool:
    """Whether it is LoRA's B matrix, which is initialised to zero (Hu et al. 2021), so that B A is zero untrained."""
    return "lora_B" in name or "lora_embedding_B" in name
