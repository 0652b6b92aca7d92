"""Adapters of PEFT made elsewhere: the base that they name, and whether a base has the shapes that they need."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rayloom.errors import InputError
from rayloom.models.adapters import HEADED_TASKS, OWN_CONFIG, WEIGHTS
from rayloom.models.weight_files import StoredTensor, stored_tensors
from rayloom.reading.hub import commit_of, hub_api, hub_errors
from rayloom.specs.ingest import FolderSource, HubSource

CONFIG = "adapter_config.json"
_FIX = "Give a folder of PEFT: adapter_config.json and adapter_model.safetensors."
_KEEP_THE_BASE = (None, True, False, "gaussian", "orthogonal", "eva", "mica")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class AdapterFacts:
    """The facts about an adapter for its manifest and report."""

    method: str
    """As PEFT names it: LORA, IA3, …"""
    rank: int | None
    num_values: int
    base_named: str
    """What its own configuration calls its base."""

    def as_metrics(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def described(self) -> str:
        return f"{self.method}{f' of rank {self.rank}' if self.rank else ''}, {self.num_values:,} values"


def checked_adapter(folder: Path, base: Path, base_id: str) -> AdapterFacts:
    """Facts about the adapter in `folder`. Raises InputError if it is none, or needs a base of other shapes.

    Names and shapes of its tensors are compared with those that PEFT gives such an adapter on this base; no weights are
    loaded.
    """
    config = _configuration(folder)
    _check_base_is_kept(config, folder)
    stored = stored_tensors(folder, WEIGHTS)
    task = config.get("task_type") or "CAUSAL_LM"
    if task in HEADED_TASKS:
        what = f"The adapter brings a task head ({task}), and PEFT does not store what its outputs mean"
        raise InputError(what, where=str(folder), fix="Train one here: `rayloom explain train.task`.")
    expected, embeddings = _expected(folder, base, task, config)
    _check_shapes(stored, expected, embeddings, folder, base_id, config)
    rank = config.get("r")
    return AdapterFacts(
        str(config.get("peft_type", "unknown")),
        int(rank) if isinstance(rank, int) else None,
        sum(tensor.num_values for tensor in stored.values()),
        str(config.get("base_model_name_or_path") or ""),
    )


def _check_base_is_kept(config: dict[str, Any], folder: Path) -> None:
    """Raises InputError if training began by changing the base, as PiSSA, OLoRA, CorDA and LoftQ do.

    PEFT would change it again at each loading; a server, and another training, would not.
    """
    initial = config.get("init_lora_weights")
    if initial not in _KEEP_THE_BASE:
        what = f"The adapter belongs to a base that its own initialisation ({initial!s:.40}) had changed"
        fix = "Save it with PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA of it."
        raise InputError(what, where=str(folder), fix=fix)


def check_weights(folder: Path) -> None:
    """Raises InputError if the folder has no weights of an adapter in safetensors format."""
    if not (folder / WEIGHTS).exists():
        pickled = (folder / "adapter_model.bin").exists()
        what = "The adapter's weights are pickled, and reading a pickle can run any code" if pickled else ""
        raise InputError(what or f"The adapter has no {WEIGHTS}", where=str(folder), fix=_FIX)


def _configuration(folder: Path) -> dict[str, Any]:
    if (folder / OWN_CONFIG).exists():
        what = "This adapter's method is Rayloom's own, not PEFT's"
        raise InputError(what, where=str(folder), fix="Copy the store that it is in, or publish its merged model.")
    return _parsed((folder / CONFIG).read_text(encoding="utf-8") if (folder / CONFIG).exists() else None, str(folder))


def _parsed(text: str | None, where: str) -> dict[str, Any]:
    if text is None:
        raise InputError(f"This is not an adapter: it has no {CONFIG}", where=where, fix=_FIX)
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{CONFIG} is not JSON: {error}", where=where, fix=_FIX) from None
    if not isinstance(config, dict):
        raise InputError(f"{CONFIG} is no object but {type(config).__name__}", where=where, fix=_FIX)
    return config


def _expected(
    folder: Path, base: Path, task: str, config: dict[str, Any]
) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """Names and shapes of the tensors of such an adapter on this base, and the shape of the base's embeddings."""
    import torch
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict

    from rayloom import pretrained

    loader = pretrained.AutoModelForSeq2SeqLM if task == "SEQ_2_SEQ_LM" else pretrained.AutoModelForCausalLM
    try:
        with warnings.catch_warnings(action="ignore"):  # what it leaves out is an error below
            settings = PeftConfig.from_pretrained(str(folder))
        settings.inference_mode, settings.base_model_name_or_path = True, None
        with torch.device("meta"):
            model = loader.from_config(pretrained.AutoConfig.from_pretrained(base))
            adapted = get_peft_model(model, settings)
        state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        embeddings = tuple(model.get_input_embeddings().weight.shape)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        fix = "Name the model that it was trained on as content.base."
        raise InputError(f"The adapter cannot be put on this base: {reason}", where=str(folder), fix=fix) from error
    _check_known(config, settings, folder)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}, embeddings


def _check_known(config: dict[str, Any], settings: Any, folder: Path) -> None:
    """Raises InputError for settings that this version of PEFT does not have, and would leave out with a warning."""
    import peft

    known = {field.name for field in fields(settings)} | {"runtime_config"}  # which PEFT ignores rightly
    strange = sorted(name for name, value in config.items() if name not in known and value not in (None, False, [], {}))
    if strange:
        what = f"{CONFIG} has {', '.join(strange)}, which PEFT {peft.__version__} does not know and would leave out"
        fix = "Merge it where it was made and import the model, or take out what does not change what it computes."
        raise InputError(what, where=str(folder), fix=fix)


def _check_shapes(
    stored: dict[str, StoredTensor],
    expected: dict[str, tuple[int, ...]],
    embeddings: tuple[int, ...],
    folder: Path,
    base_id: str,
    config: dict[str, Any],
) -> None:
    # Whole embeddings are saved along where the vocabulary was changed.
    expected = expected | {name: embeddings for name in stored if name.endswith("embed_tokens.weight")}
    other = [name for name in stored if name in expected and stored[name].shape != expected[name]]
    strange = [name for name in stored if name not in expected and "embed" not in name]
    missing = [name for name in expected if name not in stored]
    if other:
        name = min(other)
        shapes = f"{stored[name].shape}, not {expected[name]}"
        what = f"{len(other)} of its tensors have other shapes, such as {name}: {shapes}"
    elif strange:
        what = f"{len(strange)} of its tensors belong to no layer of this base, such as {min(strange)}"
    elif missing:
        what = f"it lacks {len(missing)} tensors, such as {min(missing)}"
    else:
        return
    named = config.get("base_model_name_or_path")
    fix = f"It says that it was trained on {named}." if named else "Name the model that it was trained on."
    raise InputError(f"The adapter does not fit the base {base_id}: {what}", where=str(folder), fix=fix)


def base_named(source: HubSource | FolderSource, field: str) -> str | None:
    """The reference of the base that an adapter's own configuration names; None if the source holds no adapter.

    `field`: the one that names the source, for messages. Raises InputError if the name is no repository of the hub
    and no folder here.
    """
    config = _configuration_at(source)
    if config is None:
        return None
    named = str(config.get("base_model_name_or_path") or "")
    where = source.repository if isinstance(source, HubSource) else source.path
    if isinstance(source, FolderSource) and named and (Path(source.path) / named).is_dir():
        return str((Path(source.path) / named).resolve())
    if not _REPOSITORY.fullmatch(named):
        what = f"{field} names an adapter whose base is {named!r}, which is no repository of the hub"
        fix = "Import it with a job: content: {type: adapter, base: artifact:NAME}."
        raise InputError(what, where=where, fix=fix)
    revision = config.get("revision")
    return f"hf://{named}" + (f"@{revision}" if revision and revision != "main" else "")


def _configuration_at(source: HubSource | FolderSource) -> dict[str, Any] | None:
    if isinstance(source, FolderSource):
        file = Path(source.path) / CONFIG
        return _parsed(file.read_text(encoding="utf-8"), source.path) if file.exists() else None
    from huggingface_hub.errors import EntryNotFoundError

    commit = commit_of(source.repository, source.revision, "model")
    with hub_errors(f"{source.repository}@{source.revision}"):
        try:
            file = Path(hub_api().hf_hub_download(source.repository, CONFIG, revision=commit))
        except EntryNotFoundError:
            return None
    return _parsed(file.read_text(encoding="utf-8"), source.repository)
