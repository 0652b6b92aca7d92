"""Models with a task head: made from a base, saved with their task, and loaded with or without an adapter.

Also the prompt that a language model was trained on, kept with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn

from rayloom.errors import InputError
from rayloom.models.adapters import attach
from rayloom.models.adapters import load as load_adapter
from rayloom.models.int8_linear import use_int8_arithmetic
from rayloom.models.quantised import NEVER_QUANTISED, load_quantised
from rayloom.models.weight_files import stored_tensors
from rayloom.specs.prompting import Prompt
from rayloom.specs.training.adapters import Adapter, LoraAdapter
from rayloom.specs.training.prompted import PROMPT_FILE, SHOWN_FILE
from rayloom.specs.training.tasks import (
    TASK_FILE,
    QuestionAnswering,
    RewardScoring,
    SequenceToSequence,
    Task,
    TokenClassification,
)
from rayloom.text.labelled.examples import Example, write_examples

_FIX = "Name a folder or artifact with config.json, model.safetensors and tokenizer.json."


def task_model(base: Path, task: Task, **settings: Any) -> tuple[nn.Module, list[str]]:
    """The base with a head for the task, and the names of the modules that the base has no weights for.

    These are the head, and in some architectures a layer below it; they are initialised from torch's generator.
    `settings` go to `from_pretrained`. Raises InputError if the base cannot have such a head.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    with _refused(base, task):
        config = _config_of(base, task)
        verbosity = transformers.utils.logging.get_verbosity()
        transformers.utils.logging.set_verbosity_error()  # a warning about a new head would mislead
        try:
            loaded = _auto_class(task).from_pretrained(
                base, config=config, use_safetensors=True, output_loading_info=True, **{"dtype": "auto", **settings}
            )
        finally:
            transformers.utils.logging.set_verbosity(verbosity)
    model: nn.Module = loaded[0]
    return model, _modules_of(loaded[1]["missing_keys"])


def empty_task_model(base: Path, task: Task) -> tuple[nn.Module, list[str]]:
    """As `task_model`, but on torch's meta device, for counting parameters."""
    with _refused(base, task):
        config = _config_of(base, task)
        with torch.device("meta"):
            model: nn.Module = _auto_class(task).from_config(config)
    # Weight files name parameters with or without the base model's prefix ("bert.").
    known = {part for name in stored_tensors(base) for part in (name, name.partition(".")[2])}
    missing = (name for name, _ in model.named_parameters() if not known & {name, name.partition(".")[2]})
    return model, _modules_of(missing)


def _modules_of(parameters: Iterable[str]) -> list[str]:
    return sorted({name.rpartition(".")[0] for name in parameters})


@contextmanager
def _refused(base: Path, task: Task) -> Iterator[None]:
    if not (base / "config.json").exists():
        raise InputError("The base is not a model: it has no config.json", where=str(base), fix=_FIX)
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The base cannot have a head for {task.type}: {reason}", where=str(base), fix=_FIX) from error


def _config_of(base: Path, task: Task) -> Any:
    from rayloom.pretrained import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(base, **_head_settings(task))
    if config.pad_token_id is None:
        # Decoders classify at the last token before the padding, so they need a padding token.
        tokenizer = AutoTokenizer.from_pretrained(base)
        config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else config.eos_token_id
    return config


def trained_task_model(
    base: Path,
    task: Task,
    adapter: Adapter,
    tokenizer: Path,
    compute_dtype: torch.dtype,
    change: Callable[[nn.Module], nn.Module],
) -> nn.Module:
    """The base with a head and an adapter, for training. New modules are trained in full and saved.

    `change`: what is done to the base before it gets the adapter.
    """
    quantised = adapter.quantised_base if isinstance(adapter, LoraAdapter) else None
    if quantised is not None:
        headed = _Headed(task)
        model, fresh = load_quantised(headed, base, quantised, compute_dtype), headed.fresh
    else:
        model, fresh = task_model(base, task)
    return attach(change(model), adapter, task.peft_task, tokenizer, fresh)


class _Headed:
    """A model class for `load_quantised` that adds a head, and records which modules are new.

    Heads are not quantised, nor is BERT's pooler, which many bases lack: new modules have no weights to quantise.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.fresh: list[str] = []

    def from_pretrained(self, folder: Path, **settings: Any) -> nn.Module:
        settings["quantization_config"].llm_int8_skip_modules = list(NEVER_QUANTISED)
        settings.pop("use_safetensors")
        model, self.fresh = task_model(folder, self.task, **settings)
        return model


def _auto_class(task: Task) -> Any:
    from rayloom import pretrained

    if isinstance(task, TokenClassification):
        return pretrained.AutoModelForTokenClassification
    if isinstance(task, QuestionAnswering):
        return pretrained.AutoModelForQuestionAnswering
    if isinstance(task, SequenceToSequence):
        return pretrained.AutoModelForSeq2SeqLM
    return pretrained.AutoModelForSequenceClassification


def _head_settings(task: Task) -> dict[str, Any]:
    if isinstance(task, QuestionAnswering | SequenceToSequence):
        return {}
    labels = task.labels
    is_multiple = getattr(task, "multiple", False)
    kind = "multi_label_classification" if is_multiple else "single_label_classification"
    if isinstance(task, RewardScoring):
        kind = "regression"
    numbered = dict(enumerate(labels))
    return {
        "num_labels": len(labels),
        "id2label": numbered,
        "label2id": {label: number for number, label in numbered.items()},
        **({} if isinstance(task, TokenClassification) else {"problem_type": kind}),
    }


def save_task(task: Task, sequence_length_tokens: int, folder: Path) -> None:
    """Writes the task and row length of the model in the folder."""
    facts = {"task": task.model_dump(mode="json"), "sequence_length_tokens": sequence_length_tokens}
    (folder / TASK_FILE).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def task_of(folder: Path) -> tuple[Task, int] | None:
    """The task and row length of the model or adapter in a folder; None if it is a causal language model."""
    file = folder / TASK_FILE
    if not file.exists():
        return None
    facts = json.loads(file.read_text(encoding="utf-8"))
    task: Task = TypeAdapter(Task).validate_python(facts["task"])
    return task, int(facts["sequence_length_tokens"])


def save_prompt(prompt: Prompt, sequence_length_tokens: int, shown: Sequence[Example], folder: Path) -> None:
    """Writes the prompt that the model in the folder was trained on, and the rows that it may show."""
    facts = {"prompt": prompt.model_dump(mode="json"), "sequence_length_tokens": sequence_length_tokens}
    (folder / PROMPT_FILE).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if prompt.demonstrations is not None:
        write_examples(shown, folder / SHOWN_FILE)


def prompt_of(folder: Path) -> tuple[Prompt, int] | None:
    """The prompt that the model or adapter in a folder was trained on, and its row length; None if on none."""
    file = folder / PROMPT_FILE
    if not file.exists():
        return None
    facts = json.loads(file.read_text(encoding="utf-8"))
    return Prompt.model_validate(facts["prompt"]), int(facts["sequence_length_tokens"])


def load_task_model(base: Path, adapter: Path | None, task: Task) -> nn.Module:
    """The model, ready for inference on this process' device. `base`: the model itself if there is no adapter."""
    torch.manual_seed(0)
    model, fresh = task_model(base, task)
    if adapter is not None:
        model = load_adapter(model, adapter)
    elif fresh:
        what = f"The model has no weights for {', '.join(fresh)}, which {task.type} needs"
        raise InputError(what, where=str(base), fix="Train it for the task first.")
    use_int8_arithmetic(model)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
