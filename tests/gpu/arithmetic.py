"""The same numbers on the GPU as on the CPU, and packed as one by one."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from place import Place
from runs import run, spec_of, write_rows
from torch import Tensor

from rayloom.score.batches import NO_LABEL, Batch
from rayloom.score.document_attention import use_documents
from rayloom.score.label_loss import LabelLoss

SHAPE = {"type": "decoder", "num_layers": 2, "hidden_size": 64, "num_heads": 4, "num_key_value_heads": 2}
VOCABULARY, LENGTH, STEPS = 256, 64, 5
MOST_NATS = {"fp32": 5e-3, "bf16": 3e-2}
"""Between losses of two devices: on GPUs fp32 products are in TF32."""
MOST_PACKED_SHARE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""By which the packed loss, and the norm of the difference of gradients, may differ from the documents' own."""


def measured(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = {"largest_loss_difference": _devices(place)}
    types = [torch.float32, torch.bfloat16]
    found["packed_difference"] = {str(dtype).removeprefix("torch."): _packed(place, dtype) for dtype in types}
    return found


def _devices(place: Place) -> dict[str, float]:
    """Between a run on this device and the same one on the CPU, from the same weights."""
    write_rows(place.folder, VOCABULARY, LENGTH, document_tokens=LENGTH // 4)
    on_cpu = Place(torch.device("cpu"), place.folder, is_small=True)
    found = {}
    for precision, most in MOST_NATS.items():
        facts = {
            "architecture": SHAPE | {"max_positions": LENGTH}, "sequence_length_tokens": LENGTH, "learning_rate": 3e-3,
            "micro_batch_sequences": 4, "global_batch_tokens": 8 * LENGTH, "precision": precision,
        }  # fmt: skip
        losses = []
        for where in (place, on_cpu):
            spec = spec_of(where, **facts)
            losses.append(run(where, spec, place.folder, STEPS, partial(same_weights, where)).losses)
        apart = max(abs(one - other) for one, other in zip(*losses, strict=True))
        if not apart <= most:
            raise AssertionError(f"{precision}: losses {losses[0]} here and {losses[1]} on the CPU")
        if not losses[0][-1] < losses[0][0]:
            raise AssertionError(f"{precision}: the loss does not fall: {losses[0]}")
        found[precision] = round(apart, 6)
    return found


def same_weights(place: Place) -> Any:
    """Made on the CPU wherever it goes, since generators differ between devices."""
    from rayloom.specs.training.architectures import DecoderArchitecture
    from rayloom.train.weights.architectures import config_of, model_of

    torch.manual_seed(0)
    shape = DecoderArchitecture.model_validate(SHAPE | {"max_positions": LENGTH})
    config = config_of(shape, VOCABULARY, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    return model_of(config).to(place.device)


def _packed(place: Place, dtype: torch.dtype) -> dict[str, float]:
    """A row of documents against its documents one by one: loss, and gradients of all weights."""
    lengths = place.of([1700, 300, 1096, 1000], [500, 68, 456])
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randint(VOCABULARY, (length,), generator=generator) for length in lengths]
    model = same_weights(place)
    model.config.max_position_embeddings = sum(lengths)
    model = model.to(dtype).train()
    use_documents(model)
    loss_of = LabelLoss(model)
    packed = _loss_and_gradients(loss_of, [_batch(documents)], place)
    single = _loss_and_gradients(loss_of, [_batch([document]) for document in documents], place)
    loss = abs(packed[0] - single[0]) / single[0]
    gradients = float((packed[1] - single[1]).norm() / single[1].norm())
    if not max(loss, gradients) <= MOST_PACKED_SHARE[dtype]:
        raise AssertionError(f"{dtype}: the packed loss differs by {loss:.2e} of itself, gradients by {gradients:.2e}")
    return {"loss": round(loss, 8), "gradients": round(gradients, 8)}


def _batch(documents: list[Tensor]) -> Batch:
    """One row."""
    tokens = torch.cat(documents)
    positions = torch.cat([torch.arange(len(document)) for document in documents])
    labels = torch.cat([torch.cat([document[1:], torch.tensor([NO_LABEL])]) for document in documents])
    return Batch(tokens[None], positions[None], labels[None], len(tokens))


def _loss_and_gradients(loss_of: LabelLoss, batches: list[Batch], place: Place) -> tuple[float, Tensor]:
    loss_of.zero_grad()
    total = 0.0
    for batch in batches:
        loss = loss_of(batch.to(place.device))
        loss.backward()
        total += float(loss)
    return total, torch.cat([p.grad.float().flatten() for p in loss_of.parameters() if p.grad is not None])
