"""What a training holds of its base: weights by their Fisher information, and adapters of earlier tasks.

A model keeps the diagonal of its Fisher information:

    fisher/diagonal.safetensors   fp32, by the names of the model's parameters

It lies in a folder of its own, as servers load every safetensors file beside a model's configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.random import default_rng
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rayloom.artifacts.lineage import base_of
from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.models.lora_sequence import check_earlier, check_start, overlap
from rayloom.models.parts import part_of
from rayloom.models.task_models import task_of
from rayloom.models.weight_files import stored_tensors
from rayloom.score.retained_loss import HeldWeights, RetainedLoss
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.adapters import LoraAdapter
from rayloom.specs.training.retain import DistanceToStart, ElasticWeights, OrthogonalLora, earlier_adapter_of
from rayloom.train.job import TrainJob
from rayloom.train.objectives.objective import Objective, StoredRows
from rayloom.train.precision import DTYPES, computing_precision, convert_parameters
from rayloom.train.weights.model import build_model

FISHER_FILE = Path("fisher") / "diagonal.safetensors"
ROW_STREAM = 2
"""Random stream of the masks of these rows, beside those of `loop.batch_feed`."""


def with_retention(loss: nn.Module, spec: TrainSpec, base: Path | None) -> nn.Module:
    """The loss module with the penalties that `retain` asks for. Call it before training has changed a weight."""
    model: Any = loss.model
    penalties: list[Callable[[nn.Module], Tensor]] = []
    asked = [one for one in spec.retain if isinstance(one, ElasticWeights | DistanceToStart)]
    if asked and base is not None:
        penalties.append(HeldWeights(model, _strengths(asked, model, base)).penalty)
    penalties += [partial(_weighted_overlap, one.strength) for one in spec.retain if isinstance(one, OrthogonalLora)]
    return RetainedLoss(loss, penalties) if penalties else loss


def _weighted_overlap(strength: float, model: nn.Module) -> Tensor:
    return overlap(model) * strength


def _strengths(
    asked: Sequence[ElasticWeights | DistanceToStart], model: nn.Module, base: Path
) -> dict[str, Tensor | float]:
    strengths: dict[str, Tensor | float] = {}
    for one in asked:
        diagonal: Mapping[str, Tensor | float]
        if isinstance(one, ElasticWeights):
            diagonal = {name: value * one.strength for name, value in fisher_of(base, model).items()}
        else:
            known = {part for name in stored_tensors(base) for part in (name, name.partition(".")[2])}
            diagonal = {
                name: one.strength
                for name, parameter in model.named_parameters()
                # Weight files name parameters with or without the base model's prefix ("bert.").
                if parameter.requires_grad and known & {name, name.partition(".")[2]}
            }
        for name, value in diagonal.items():
            strengths[name] = strengths[name] + value if name in strengths else value
    return strengths


def check_retention(spec: TrainSpec, base: Path | None) -> None:
    """Raises InputError if `retain` asks for the base's Fisher information and it keeps none."""
    wants_fisher = any(isinstance(one, ElasticWeights) for one in spec.retain)
    if wants_fisher and (base is None or not (base / FISHER_FILE).exists()):
        fix = "Train the base with `fisher: {rows: 200}`, or use retain l2_sp, which needs none."
        raise InputError("retain ewc: the base keeps no Fisher information of its task", where=str(base), fix=fix)


def start_of(spec: TrainSpec, parents: Mapping[str, Artifact]) -> Path | None:
    """The folder of the adapter that is trained on. Raises InputError if it is of another base, rank or scale."""
    named = parents.get("adapter.start_from")
    if named is None or not isinstance(spec.adapter, LoraAdapter):
        return None
    base_of(named, parents["base"], named.store)
    check_start(named.path, spec.adapter)
    return named.path


def earlier_of(spec: TrainSpec, parents: Mapping[str, Artifact]) -> Path | None:
    """The folder of the earlier adapter that a job names. Raises InputError if it is of another base or task."""
    asked = earlier_adapter_of(spec)
    if asked is None:
        return None
    named = parents[f"retain.{spec.retain.index(asked)}.earlier"]
    base_of(named, parents["base"], named.store)
    check_earlier(named.path)
    known = task_of(named.path)
    if getattr(spec.task, "labels", None) != (None if known is None else getattr(known[0], "labels", None)):
        what = f"{named.id} was not trained for these labels, in this order"
        raise InputError(what, where="retain", fix="Give all tasks of a sequence one list of labels.")
    return named.path


def fisher_of(base: Path, model: nn.Module) -> dict[str, Tensor]:
    """What a base keeps, for the model's trained parameters. Raises InputError if it is another model's."""
    stored = load_file(base / FISHER_FILE)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    strange = [
        name
        for name, value in stored.items()
        # A head is a new one where the labels are others.
        if name in trained and trained[name].shape != value.shape and part_of(name, model) != "head"
    ]
    if strange or not set(stored) & set(trained):
        named = strange[0] if strange else next(iter(stored), "nothing")
        what = f"The Fisher information is of another model: {named} has no place in this one"
        fix = "Train the base again with `fisher`, and with the same adapter or none."
        raise InputError(what, where=str(base / FISHER_FILE), fix=fix)
    return {name: value for name, value in stored.items() if name in trained and trained[name].shape == value.shape}


def fisher_diagonal(
    loss: nn.Module, objective: Objective, rows: StoredRows, num_rows: int, seed: int, device: torch.device
) -> dict[str, Tensor]:
    """The mean over labels of the squared gradient of −log p, row by row, in evaluation mode (without dropout)."""
    model: Any = loss.model
    model.eval()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in trained.items()}
    chosen = default_rng([seed, ROW_STREAM]).permutation(len(rows))[:num_rows]
    num_labels = 0
    for number in chosen.tolist():
        batch = objective.batch([rows.row(number)], [(seed, ROW_STREAM, number)])
        loss.zero_grad(set_to_none=True)
        loss(batch.to(device)).backward()
        num_labels += batch.num_labels
        for name, parameter in trained.items():
            if parameter.grad is not None:
                sums[name] += parameter.grad.float() ** 2
    loss.zero_grad(set_to_none=True)
    return {name: total.cpu() / max(1, num_labels) for name, total in sums.items()}


def keep_fisher(job: TrainJob, objective: Objective, rows: StoredRows, device: torch.device) -> None:
    """Puts the Fisher information of the finished model into its folder, if the job asks for it."""
    spec = job.spec
    if spec.fisher is None:
        return
    finished = {"architecture": None, "keep_layers": None, "objective": spec.objective_in_use, "embedding_noise": None}
    model = build_model(spec.model_copy(update=finished), job.out, job.out)
    convert_parameters(model, DTYPES[computing_precision(spec, device.type == "cuda")])
    loss = objective.loss_of(model.to(device))
    diagonal = fisher_diagonal(loss, objective, rows, spec.fisher.rows, spec.seed, device)
    write_fisher(diagonal, job.base, spec.fisher.earlier_share, job.out)


def write_fisher(diagonal: dict[str, Tensor], earlier: Path | None, earlier_share: float, out: Path) -> None:
    """Writes the diagonal into a model's folder, with the part that its base (`earlier`) kept added."""
    before = load_file(earlier / FISHER_FILE) if earlier is not None and (earlier / FISHER_FILE).exists() else {}
    for name, value in before.items():
        if name in diagonal and diagonal[name].shape == value.shape:
            diagonal[name] = diagonal[name] + value * earlier_share
    file = out / FISHER_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in diagonal.items()}, file)
