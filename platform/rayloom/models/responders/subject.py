"""The model under evaluation: a whole model, or an adapter on its base; and a task's held-out texts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from rayloom.artifacts.lineage import base_of
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.models import loading
from rayloom.models.task_models import load_task_model, prompt_of, task_of
from rayloom.specs.prompting import Prompt
from rayloom.specs.training.tasks import Task
from rayloom.text.conversations.render import Renderer
from rayloom.text.labelled.dataset import EXAMPLES_NAME
from rayloom.text.labelled.examples import Example, read_examples


@dataclass(frozen=True)
class Subject:
    """One model of a comparison. Weights are loaded on first use."""

    role: str
    """The field of the job that names it, such as `model`, `baseline` or `earlier.0`."""
    artifact_id: str
    base: Path
    adapter: Path | None = None
    made_from: Artifact | None = None
    """Where another node finds the folders; None if they are not in a store, and all nodes see them."""

    def __reduce__(self) -> tuple[Callable[..., Subject], tuple[Any, ...]]:
        """Pickles the artifact instead of folders, so that the subject has those of the node that it comes to."""
        if self.made_from is None:
            return Subject, (self.role, self.artifact_id, self.base, self.adapter)
        return Subject.of, (self.role, self.made_from, self.made_from.store)

    @classmethod
    def of(cls, role: str, artifact: Artifact, store: Store) -> Subject:
        """The subject for an artifact. Raises InputError if an adapter's base is unknown, missing or another one."""
        if artifact.manifest.content != "adapter":
            return cls(role, artifact.id, artifact.path, made_from=artifact)
        base = base_of(artifact, None, store)
        return cls(role, artifact.id, base.path, artifact.path, artifact)

    @property
    def tokenizer_folder(self) -> Path:
        """Folder of tokenizer and chat template: the adapter's if it has them, else the base's."""
        brings_one = self.adapter is not None and (self.adapter / "tokenizer_config.json").exists()
        return self.adapter if brings_one and self.adapter is not None else self.base

    @functools.cached_property
    def tokenizer(self) -> Any:
        from rayloom.pretrained import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.tokenizer_folder)

    @functools.cached_property
    def model(self) -> nn.Module:
        return loading.load(self.base, self.adapter)

    @functools.cached_property
    def masked_model(self) -> nn.Module:
        return loading.load_masked(self.base, self.adapter)

    @functools.cached_property
    def task(self) -> tuple[Task, int] | None:
        """The model's task and row length; None if it is a causal language model."""
        return task_of(self.adapter or self.base)

    @functools.cached_property
    def prompt(self) -> tuple[Prompt, int] | None:
        """The prompt that a language model was trained on, and its row length; None if on none."""
        return prompt_of(self.adapter or self.base)

    @functools.cached_property
    def task_model(self) -> nn.Module:
        if self.task is None:
            raise ValueError(f"{self.artifact_id} has no task")
        return load_task_model(self.base, self.adapter, self.task[0])

    @functools.cached_property
    def renderer(self) -> Renderer:
        return Renderer.of_model(self.tokenizer_folder, generation_config=self.base / "generation_config.json")

    def release(self) -> None:
        """Frees the memory of the weights."""
        for name in ("model", "masked_model", "task_model"):
            self.__dict__.pop(name, None)


def subjects(parents: Mapping[str, Artifact], store: Store) -> list[Subject]:
    """The model, and the baseline and the models of earlier stages if the job names them."""
    earlier = sorted((field for field in parents if field.startswith("earlier.")), key=lambda field: int(field[8:]))
    return [Subject.of(role, parents[role], store) for role in ("model", "baseline", *earlier) if role in parents]


# Held-out texts of a task's training job.


def heldout_examples(rows_of: Artifact) -> list[Example]:
    """The held-out texts in an artifact. Raises InputError if there are none."""
    file = rows_of.path / "heldout" / EXAMPLES_NAME
    if not file.exists():
        fix = "Name the model or adapter that a `train` job with a task made."
        raise InputError(f"{rows_of.id} keeps no held-out texts of a task", where=str(rows_of.path), fix=fix)
    return list(read_examples(file))
