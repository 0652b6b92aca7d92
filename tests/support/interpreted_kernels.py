"""Losses and gradients of tiny decoders with and without Liger's kernels, which Triton's interpreter runs on the CPU.

`TRITON_INTERPRET=1 python -m support.interpreted_kernels MODEL_TYPE …` prints a JSON object with the figures of each.
"""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rayloom.models.adapters import attach
from rayloom.score.batches import NO_LABEL, Batch
from rayloom.score.document_attention import use_documents
from rayloom.score.label_loss import LabelLoss
from rayloom.specs.training.adapters import LoraAdapter
from rayloom.train.weights.kernels import use_liger

SHAPE = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 16, "tie_word_embeddings": False,
}  # fmt: skip
DOCUMENTS = (3, 5)
"""Tokens of the documents in the one row."""


def main() -> None:
    _teach_interpreter()
    print(json.dumps({model_type: compared(model_type) for model_type in sys.argv[1:]}))


def _teach_interpreter() -> None:
    """What the compiler does and the interpreter does not: floats as scalars with a type, and libdevice's functions."""
    import liger_kernel.ops.rms_norm
    import triton.language as tl
    from triton.runtime import interpreter

    own = interpreter._implicit_cvt

    def converted(given: Any) -> Any:
        if isinstance(given, float):
            return tl.tensor(interpreter.TensorHandle(np.array([given], np.float32), tl.float32), tl.float32)
        return own(given)

    interpreter._implicit_cvt = converted
    liger_kernel.ops.rms_norm.rsqrt = lambda value: tl.math.rsqrt(value)


def compared(model_type: str) -> dict[str, Any]:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SHAPE)
    model: Any = attach(AutoModelForCausalLM.from_config(config), LoraAdapter(type="lora", rank=2))
    for parameter in model.parameters():
        parameter.requires_grad_(True)
        if parameter.ndim == 1 or not parameter.any():  # a norm's ones and LoRA's zeros tell too little
            parameter.data += torch.randn_like(parameter) / 4
    fused = deepcopy(model)
    plain = _step(model)
    use_liger(fused)
    made_later = type(AutoModelForCausalLM.from_config(config).model.norm).__name__
    ours = _step(fused)
    return {
        "loss": plain[0],
        "loss_difference": abs(plain[0] - ours[0]),
        "gradient_difference": float((plain[1] - ours[1]).norm() / plain[1].norm()),
        "parameters_differ": [n for n, _ in model.named_parameters()] != [n for n, _ in fused.named_parameters()],
        "kept_bytes": [plain[2], ours[2]],
        "made_later": made_later,
    }


def _step(model: Any) -> tuple[float, torch.Tensor, int]:
    """The loss of a packed row, its gradients, and the bytes of activations that were kept for them."""
    use_documents(model.train())
    tokens = torch.randint(SHAPE["vocab_size"], (1, sum(DOCUMENTS)), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(size) for size in DOCUMENTS])[None]
    labels = tokens.roll(-1)
    labels[:, [DOCUMENTS[0] - 1, -1]] = NO_LABEL
    loss_of = LabelLoss(model)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = loss_of(Batch(tokens, positions, labels, int((labels != NO_LABEL).sum())))
    loss.backward()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return float(loss.detach()), torch.cat(gradients), sum(kept.values())


if __name__ == "__main__":
    main()
