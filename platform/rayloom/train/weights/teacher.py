"""The teacher of a training job: whether it fits the rows, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.models.adapters import load as load_adapter
from rayloom.models.context_length import context_tokens_of
from rayloom.models.loading import missing_word_head
from rayloom.models.responders.subject import Subject
from rayloom.models.task_models import load_task_model
from rayloom.score.distillation import DistilledLabelLoss, DistilledTaskLoss, RecordedLabelLoss
from rayloom.score.document_attention import use_documents
from rayloom.score.label_loss import LabelLoss
from rayloom.score.task_loss import TaskLoss
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.teacher import ANSWERS_INSTEAD
from rayloom.text.tokenizer_files import tokenizer_digest
from rayloom.train.precision import DTYPES, computing_precision, convert_parameters
from rayloom.train.weights.fewer_layers import chosen
from rayloom.train.weights.model import from_base

_FIX = f"Name a teacher with the student's tokenizer; of another, {ANSWERS_INSTEAD}."


def teacher_of(spec: TrainSpec, parents: Mapping[str, Artifact]) -> Subject | None:
    """The teacher that a job names, or its base. Raises InputError for an adapter whose base is missing."""
    if spec.teacher_in_use is None:
        return None
    named = parents["teacher.model" if spec.teacher is not None else "base"]
    return Subject.of("teacher", named, named.store)


def check_teacher(spec: TrainSpec, teacher: Subject | None, tokenizer: Path, base: Path | None = None) -> None:
    """Raises InputError if the teacher cannot judge the student's rows, or its hidden states cannot be compared.

    `tokenizer` and `base`: folders of the student's.
    """
    from rayloom.pretrained import AutoTokenizer

    if teacher is None:
        return
    folders = (teacher.tokenizer_folder, tokenizer)
    of_teacher, of_student = (tokenizer_digest(AutoTokenizer.from_pretrained(folder)) for folder in folders)
    if of_teacher != of_student:
        what = f"The teacher {teacher.artifact_id} has another tokenizer: its tokens are not those of the student"
        raise InputError(what, where="teacher.model", fix=_FIX)
    limit = context_tokens_of(teacher.base)
    if limit is not None and spec.sequence_length_tokens > limit:
        what = f"sequence_length_tokens is {spec.sequence_length_tokens}, but the teacher has {limit} positions"
        raise InputError(what, where="teacher.model", fix=f"Give at most {limit}.")
    if spec.task is None and teacher.task is not None:
        what = f"The teacher {teacher.artifact_id} answers with labels, and the student learns language"
        raise InputError(what, where="teacher.model", fix="Name the model before its training for a task.")
    if spec.objective_in_use.type == "masked" and spec.task is None:
        _check_word_head(teacher)
    if spec.task is not None and (teacher.task is None or _labels(teacher.task[0]) != _labels(spec.task)):
        what = f"The teacher {teacher.artifact_id} was not trained for this task with these labels, in this order"
        fix = "Train the teacher by the same `task`, or let it label texts in a `generate` job and train on these."
        raise InputError(what, where="teacher.model", fix=fix)
    if base is not None and spec.teacher is not None and spec.teacher.hidden_states_weight is not None:
        _check_layers(base, teacher)


def _check_word_head(teacher: Subject) -> None:
    missing = missing_word_head(teacher.base)
    if missing is not None:
        what = f"The teacher {teacher.artifact_id} predicts no masked words: its head is missing ({missing})"
        raise InputError(what, where="teacher.model", fix="Train it with objective masked first, or name another.")


def _check_layers(base: Path, teacher: Subject) -> None:
    from rayloom.pretrained import AutoConfig

    configs = (AutoConfig.from_pretrained(folder).get_text_config() for folder in (base, teacher.base))
    own, other = (f"{config.num_hidden_layers} layers of {config.hidden_size} numbers" for config in configs)
    if own != other:
        what = f"The student's base has hidden states of {own}, and {teacher.artifact_id} of {other}"
        fix = "Name the student's base as its teacher, or what was trained from it; or leave hidden_states_weight out."
        raise InputError(what, where="teacher.hidden_states_weight", fix=fix)


def _labels(task: object) -> tuple[object, ...]:
    return type(task), getattr(task, "labels", ()), getattr(task, "multiple", False)


def with_teacher(loss: nn.Module, spec: TrainSpec, teacher: Subject | None, device: torch.device) -> nn.Module:
    """The loss module of a model, with the teacher's part in training if the job has one."""
    asked = spec.teacher_in_use
    if asked is None or teacher is None:
        return loss
    if asked.recorded is not None and isinstance(loss, LabelLoss):
        return RecordedLabelLoss(loss.model, asked)
    loaded = load_teacher(spec, teacher, device)
    if isinstance(loss, TaskLoss):
        return DistilledTaskLoss(loss, loaded, asked)
    if isinstance(loss, LabelLoss):
        return DistilledLabelLoss(loss.model, loaded, asked, _layers_in_teacher(spec, loaded))
    raise TypeError(f"{type(loss).__name__} takes no teacher")


def _layers_in_teacher(spec: TrainSpec, teacher: nn.Module) -> tuple[int, ...]:
    """Which of the teacher's layers each of the student's learns; empty if hidden states are not compared."""
    if spec.teacher is None or spec.teacher.hidden_states_weight is None or spec.keep_layers is None:
        return ()
    config: Any = teacher.config
    return chosen(spec.keep_layers, int(config.get_text_config().num_hidden_layers))


def load_teacher(spec: TrainSpec, teacher: Subject, device: torch.device) -> nn.Module:
    """The teacher on the device, frozen, in the number format in which the student computes."""
    dtype = DTYPES[computing_precision(spec, device.type == "cuda")]
    if teacher.task is not None:
        model = load_task_model(teacher.base, teacher.adapter, teacher.task[0])
    else:
        model = from_base(teacher.base, compute_dtype=dtype, objective=spec.objective_in_use.type)
        model = load_adapter(model, teacher.adapter) if teacher.adapter is not None else model
    if getattr(model.config, "quantization_config", None) is None:
        convert_parameters(model, dtype)
    use_documents(model)
    return model.eval().requires_grad_(False).to(device)
