"""The LoRA adapters of the store that a served model can use, and the engine's name of each.

A request names one as `MODEL:ADAPTER` or `MODEL:ADAPTER@VERSION`. Names are looked up in the store and never used as
paths. The engine's name always includes the version, so that its caches do not mix versions of one adapter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rayloom.artifacts.lineage import field_in_training
from rayloom.artifacts.manifest import Manifest
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.specs.serve import Adapters

_REFERENCE = re.compile(r"([a-z0-9][a-z0-9._-]{0,62})(?:@([0-9a-f]{6,64}))?")
CONFIG_FILE = "adapter_config.json"
_UNSUPPORTED = {
    "use_dora": "DoRA",
    "lora_bias": "biases in its LoRA layers",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "activated LoRA",
    "use_qalora": "QALoRA",
}


@dataclass(frozen=True)
class ResolvedAdapter:
    """An adapter named by a request, with its version."""

    manifest: Manifest
    engine_name: str
    """`MODEL:ADAPTER@VERSION`, with the full version."""


class AdapterCatalog:
    """The adapters of one served model, read from the store at each call."""

    def __init__(self, store: Store, model: str, spec: Adapters, base_digests: frozenset[str]) -> None:
        self._store, self._model, self._spec, self._bases = store, model, spec, base_digests

    def resolve(self, reference: str) -> ResolvedAdapter:
        """The adapter named by the part after the colon. Raises InputError with the reason if it cannot be used."""
        match = _REFERENCE.fullmatch(reference)
        if match is None or not self._is_allowed(match[1]):
            raise InputError("There is no such adapter", where=f"{self._model}:{reference[:100]}")
        manifest = self._store.resolve(reference)
        reason = self._incompatibility(manifest)
        if reason is not None:
            raise InputError(
                f"{manifest.id} cannot be used on {self._model}: {reason}", where=f"{self._model}:{reference}"
            )
        return ResolvedAdapter(manifest, f"{self._model}:{manifest.name}@{manifest.version}")

    def names(self) -> list[str]:
        """`MODEL:ADAPTER` for every usable adapter."""
        return [f"{self._model}:{manifest.name}" for manifest, reason in self._candidates() if reason is None]

    def unusable(self) -> dict[str, str]:
        """The adapters that were trained on this model but cannot be used, with the reason."""
        return {
            manifest.id: reason
            for manifest, reason in self._candidates()
            if reason is not None and manifest.content == "adapter" and self._bases & base_digests_of(manifest)
        }

    def _candidates(self) -> Iterator[tuple[Manifest, str | None]]:
        for name in self._store.names() if self._spec.allow == "all" else self._spec.allow:
            if self._store.versions(name):
                manifest = self._store.resolve(name)
                yield manifest, self._incompatibility(manifest)

    def _is_allowed(self, name: str) -> bool:
        return self._spec.allow == "all" or name in self._spec.allow

    def _incompatibility(self, manifest: Manifest) -> str | None:
        if manifest.content != "adapter":
            return f"it is a {manifest.content}"
        if not self._bases & base_digests_of(manifest):
            return "it was trained on another model"
        path = f"{self._store.location(manifest.name, manifest.version)}/{CONFIG_FILE}"
        reasons = load_problems(json.loads(self._store.read_now(path)), self._spec.max_rank)
        return "; ".join(reasons) or None


def base_digests_of(adapter: Manifest) -> frozenset[str]:
    """Digests of the model that an adapter was trained on."""
    return frozenset(parent.digest for parent in adapter.parents if field_in_training(parent.field) == "base")


def compatible_bases(model: Artifact) -> frozenset[str]:
    """Digests of the models whose adapters fit this one: itself, and the model that it was quantised from."""
    quantised_from = {
        p.digest for p in model.manifest.parents if model.manifest.kind == "quantize" and p.field == "model"
    }
    return frozenset({model.manifest.digest, *quantised_from})


def load_problems(config: Mapping[str, Any], max_rank: int) -> list[str]:
    """Reasons why vLLM cannot load an adapter with this `adapter_config.json`; it can still be merged."""
    if config.get("peft_type") != "LORA":
        return [f"it is {config.get('peft_type')}, and vLLM loads LoRA only: merge it, or serve it under `predictors`"]
    reasons = [f"vLLM does not load {name}: merge it" for key, name in _UNSUPPORTED.items() if config.get(key)]
    ranks = [int(config.get("r", 0)), *(int(rank) for rank in (config.get("rank_pattern") or {}).values())]
    if max(ranks) > max_rank:
        reasons.append(f"its rank is {max(ranks)}, and adapters.max_rank is {max_rank}")
    kept = sorted(set(config.get("modules_to_save") or ()) - {"classifier", "score"})
    if kept:
        reasons.append(f"it trained {', '.join(kept)} whole, which vLLM does not load: merge it")
    return reasons
