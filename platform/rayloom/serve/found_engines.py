"""Engine settings that searches found fastest, kept in the store by machine and model, and taken by `engine: auto`.

A record holds for machines of the same name (`machine_name`) and for equal weights (the artifact's digest), so that one
store serves many kinds of machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from rayloom.artifacts.manifest import Manifest
from rayloom.artifacts.store import Artifact, Store
from rayloom.models.processor import machine_name
from rayloom.serve import records
from rayloom.specs.search.speed import ServingLoad
from rayloom.specs.serve import ServedModel, ServeSpec
from rayloom.specs.serving.engine import EngineSpec

_FOLDER = "found-engines"


@dataclass(frozen=True)
class FoundEngine:
    """The best trial of one model in a search, and what was measured."""

    engine: dict[str, Any]
    """EngineSpec as plain values."""
    search: str
    """Artifact of the search."""
    load: dict[str, Any]
    """ServingLoad as plain values: only figures under equal loads are compared."""
    metrics: dict[str, float]

    @property
    def figures(self) -> str:
        found, load = self.metrics, ServingLoad.model_validate(self.load)
        rate, first = found["goodput_tokens_per_second"], found["first_token_seconds"]
        return f"{rate:,.0f} good tokens/s to {load.clients} clients, the first after {first:.2f} s"


def keep(store: Store, machine: str, model: Manifest, found: FoundEngine) -> None:
    """Writes the record, in place of an earlier search's."""
    records.write(store, f"{_FOLDER}/{machine}", model.digest, asdict(found))


def found_engine(store: Store, digest: str) -> FoundEngine | None:
    """What was found on machines like this one for the model with this digest; None if nothing was."""
    record = records.read(store, f"{_FOLDER}/{machine_name()}", digest)
    return None if record is None else FoundEngine(**record)


def with_found_engines(spec: ServeSpec, parents: Mapping[str, Artifact]) -> ServeSpec:
    """The job with the found settings of each model whose engine is `auto`, where there are any that fit it.

    Raises InputError if a record is damaged.
    """
    models = [_with_found(served, parents[f"models.{i}.model"]) for i, served in enumerate(spec.models)]
    return spec.model_copy(update={"models": tuple(models)})


def _with_found(served: ServedModel, artifact: Artifact) -> ServedModel:
    if served.written_engine != "auto":
        return served
    found = found_engine(artifact.store, artifact.manifest.digest)
    engine = None if found is None else _fitting(served, found)
    return served if engine is None else served.with_engine(engine)


def _fitting(served: ServedModel, found: FoundEngine) -> EngineSpec | None:
    """The found settings; None if the served model refuses them: one with adapters does, and a later version may."""
    try:
        return ServedModel.model_validate(served.model_dump(by_alias=True) | {"engine": found.engine}).engine
    except ValidationError:
        return None


def choice_of_engine(served: ServedModel, artifact: Artifact) -> str | None:
    """Where the settings come from, in one line; None if they are the file's own."""
    found = found_engine(artifact.store, artifact.manifest.digest)
    if served.written_engine == "auto":
        if found is not None:
            return f"the defaults, because those that {found.search} found do not fit this job"
        return "the defaults; `rayloom init speed` writes a search for faster ones on this machine"
    if found is None or _fitting(served, found) != served.written_engine:
        return None
    return f"found by {found.search} on this kind of machine: {found.figures}"


def slower_than_original(served: ServedModel, artifact: Artifact) -> str | None:
    """Why a quantised model should not be served here: it was measured slower than the model that it was made from.

    None if it was not, if nobody measured both under the same load, or if the file says to serve it all the same.
    """
    manifest = artifact.manifest
    origin = next((parent for parent in manifest.parents if parent.field == "model"), None)
    if manifest.kind != "quantize" or origin is None or served.serve_if_slower:
        return None
    own, before = (found_engine(artifact.store, digest) for digest in (manifest.digest, origin.digest))
    if own is None or before is None or own.load != before.load:
        return None
    name = "goodput_tokens_per_second"
    if own.metrics[name] >= before.metrics[name]:
        return None
    was = f"{manifest.id} was measured slower on this kind of machine ({own.figures})"
    than = f"{origin.name}@{origin.version}, which it was made from ({before.figures})"
    return f"{was} than {than}: serve that one, or set serve_if_slower: true"
