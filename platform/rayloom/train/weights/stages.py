"""Pipeline parallelism: of a model's layers, each worker (a stage) has some that follow each other (Huang et al. 2019).

The first stage has the embeddings, the last one the norm and the output head. Where these two are one matrix, both have
it: the first answers for it, and the last one's is a copy. Each is updated with the sum of both gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from rayloom.errors import InputError
from rayloom.score.batches import Batch
from rayloom.score.label_loss import LabelLoss, output_head
from rayloom.score.model_inputs import model_inputs
from rayloom.score.parallel.axis import Axis
from rayloom.train.sizes.stages import layers_of_stages

PROVEN = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose stages are tested to give what whole models give (tests/unit/test_pipeline_stages.py)."""


def check_stages(config: Any, num_stages: int) -> None:
    """Raises InputError if a model of this configuration cannot be computed by so many stages."""
    if config.model_type not in PROVEN:
        what = f"sharding.pipeline is {num_stages}, and a model of type {config.model_type} is not cut into stages here"
        raise InputError(what, fix=f"Use sharding.zero_stage: 3; models that can be cut: {', '.join(PROVEN)}.")
    if config.num_hidden_layers < num_stages:
        what = f"sharding.pipeline is {num_stages}, and the base has {config.num_hidden_layers} layers"
        raise InputError(what, fix=f"Set sharding.pipeline: {config.num_hidden_layers} at most.")


def elsewhere(model: Any, stage: Axis) -> set[nn.Parameter]:
    """The parameters of a whole model that a stage has not."""
    if stage.size == 1:
        return set()
    away = {parameter for _, _, module in _absent(model, stage) for parameter in module.parameters()}
    return away - {_tied_matrix(model)} if stage.rank in (0, stage.size - 1) else away


def keep_stage(model: Any, stage: Axis) -> None:
    """Takes from a model the modules that a stage has not.

    Without the embeddings it is called with hidden states, and without the head its logits are hidden states.
    """
    tied = _tied_matrix(model)
    if tied is not None and stage.rank in (0, stage.size - 1):
        tied.tied_stage = stage.size - 1 - stage.rank  # type: ignore[attr-defined]
    for parent, name, module in list(_absent(model, stage)):
        setattr(parent, name, Passing(module.to("meta")))


@contextmanager
def as_whole(model: nn.Module) -> Iterator[None]:
    """The model with the modules of all stages, without the weights of others, while the block lasts."""
    absent = [(name, module) for name, module in model.named_modules() if isinstance(module, Passing)]
    try:
        for name, passing in absent:
            model.set_submodule(name, passing.module)
        yield
    finally:
        for name, passing in absent:
            model.set_submodule(name, passing)


def tied_stage(parameter: Tensor) -> int | None:
    """The other stage that has the same matrix."""
    return getattr(parameter, "tied_stage", None)


def is_copy(parameter: Tensor) -> bool:
    """Whether the first stage has the same matrix, and answers for it."""
    return tied_stage(parameter) == 0


class Passing(nn.Module):
    """Stands for a module that another stage has."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = (module,)  # in a tuple, so that it is no part of the model

    @property
    def module(self) -> nn.Module:
        """That module, on the meta device."""
        return self._module[0]

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden


class LayerStage(nn.Module):
    """Maps the hidden states that a stage receives to those that it hands on; of the last one, to the summed loss."""

    def __init__(self, loss: LabelLoss, place: Axis) -> None:
        super().__init__()
        self.loss, self.place = loss, place

    @property
    def is_last(self) -> bool:
        return self.place.rank == self.place.size - 1

    def forward(self, batch: Batch, received: Tensor | None = None) -> Tensor:
        """(B, S, D), or () of the last stage. `received`: (B, S, D), or None in the first stage."""
        batch = replace(batch, embedded=received)
        if self.is_last:
            return self.loss(batch)  # type: ignore[no-any-return]
        model: Any = self.loss.model
        return model(**model_inputs(model, batch, has_virtual_tokens=False)).logits  # type: ignore[no-any-return]


def _absent(model: Any, stage: Axis) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """The modules that a stage has not: each with its parent and the name in it."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder, head, is_last = whole.get_decoder(), output_head(model), stage.rank == stage.size - 1
    in_a_layer = sum(p.numel() for p in decoder.layers[0].parameters() if p.dim() == 2)
    own = layers_of_stages(len(decoder.layers), head.weight.numel() / in_a_layer, stage.size)[stage.rank]  # type: ignore[operator]
    for number, layer in enumerate(decoder.layers):
        if number not in own:
            yield decoder.layers, str(number), layer
    if stage.rank > 0 and not (is_last and _tied_matrix(model) is not None):
        yield decoder, "embed_tokens", decoder.embed_tokens
    if not is_last:
        yield decoder, "norm", decoder.norm
        yield whole, "lm_head", whole.lm_head


def _tied_matrix(model: Any) -> nn.Parameter | None:
    """The one matrix of both embeddings and output head, if it is one."""
    matrix: nn.Parameter = model.get_input_embeddings().weight
    return matrix if matrix is output_head(model).weight else None
