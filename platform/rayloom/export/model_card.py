"""The card of a published artifact: what it is, where it came from, its licences and scores, and how it is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from rayloom.artifacts.lineage import Ancestor, children, lineage
from rayloom.artifacts.manifest import Manifest
from rayloom.artifacts.store import Artifact, Store
from rayloom.models.adapters import WEIGHTS
from rayloom.specs.ingest import UNKNOWN_LICENCE

_RELATION = {"merge": "merge", "quantize": "quantized", "train": "finetune", "tune": "finetune"}
_HUB_LICENCES = re.compile(
    r"apache-2\.0|mit|bsd-[23]-clause|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[234]\.0|a?gpl-[23]\.0|lgpl-3\.0|mpl-2\.0|odc-by|odbl"
    r"|openrail(\+\+)?|bigscience-openrail-m|llama[23](\.[1-9])?|gemma|unlicense|artistic-2\.0|isc|wtfpl"
)
"""Names that the hub knows; any other stands there as `other`."""
_NOT_PUBLIC = re.compile(
    r"unknown|(.*[- ])?nd([- ].*)?|.*(no.?deriv|proprietary|confidential|internal|all rights).*", re.IGNORECASE
)


@dataclass(frozen=True)
class Card:
    """A card's head and text."""

    head: dict[str, Any]
    body: str

    @property
    def text(self) -> str:
        head = yaml.safe_dump(self.head, sort_keys=False, allow_unicode=True)
        return f"---\n{head}---\n\n{self.body}"


def licences_that_forbid(licences: Sequence[str]) -> list[str]:
    """Those that say, or might say, that what is derived may not be given to everyone."""
    return [one for one in licences if any(_NOT_PUBLIC.fullmatch(part) for part in _single(one))]


def _single(licence: str) -> list[str]:
    return re.split(r"\s+AND\s+", licence)


def base_of_card(artifact: Artifact, store: Store) -> str | None:
    """The repository of the hub from which the weights come in the end; None if they come from elsewhere."""
    named = [name for node in _nodes(lineage(store, artifact.manifest)) if (name := _repository(node, "model"))]
    return named[0] if named else None


def card_of(artifact: Artifact, store: Store, name: str, licences: Sequence[str]) -> Card:
    """The card. `name`: of the repository or folder; `licences`: those that it is published under."""
    manifest = artifact.manifest
    root = lineage(store, manifest)
    head: dict[str, Any] = _licence_head(licences)
    datasets = sorted({found for node in _nodes(root) if (found := _repository(node, "dataset"))})
    if manifest.content != "dataset":
        base = base_of_card(artifact, store)
        head |= {"base_model": base} if base else {}
        head |= {"base_model_relation": _relation(manifest)} if base else {}
        head |= {"library_name": "peft" if manifest.content == "adapter" else "transformers"}
        head |= {"pipeline_tag": "text-generation"} if _is_causal(manifest, artifact) else {}
        head |= {"datasets": datasets} if datasets else {}
    head["tags"] = ["rayloom", manifest.kind]
    parts = [
        f"# {name.rpartition('/')[2]}",
        manifest.spec.get("description") or "",
        f"{manifest.headline}." if manifest.headline else "",
        *_loading(manifest, artifact, name, head.get("base_model")),
        *_scores(manifest, store),
        "## Where it came from\n",
        "\n".join(_tree(root, 0)),
        "## Licences\n",
        "\n".join(f"- {one}" for one in licences) or "None is named.",
        f"Made with Rayloom {manifest.code_version} on {manifest.created_at[:10]}, by {_packages(manifest)}. "
        f"Digest of the artifact: `sha256:{manifest.digest}`.",
    ]
    return Card(head, "\n\n".join(part for part in parts if part) + "\n")


def _licence_head(licences: Sequence[str]) -> dict[str, Any]:
    single = sorted({part for one in licences for part in _single(one)})
    if len(single) == 1 and _HUB_LICENCES.fullmatch(single[0].lower()):
        return {"license": single[0].lower()}
    if not single or UNKNOWN_LICENCE in single:
        return {"license": "unknown"}
    return {"license": "other", "license_name": " AND ".join(single)}


def _nodes(node: Ancestor) -> Iterator[Ancestor]:
    yield node
    for parent in node.parents:
        yield from _nodes(parent)


def _repository(node: Ancestor, content: str) -> str | None:
    """The repository of the hub that an artifact of this content was imported from."""
    manifest = node.manifest
    if manifest is None or manifest.kind != "import" or manifest.content != content:
        return None
    source = manifest.spec["source"]
    return str(source["repository"]) if source.get("type") == "hub" else None


def _relation(manifest: Manifest) -> str:
    return "adapter" if manifest.content == "adapter" else _RELATION.get(manifest.kind, "finetune")


def _is_causal(manifest: Manifest, artifact: Artifact) -> bool:
    config = artifact.path / "config.json"
    return manifest.content == "adapter" or (config.exists() and "ForCausalLM" in config.read_text(encoding="utf-8"))


def _loading(manifest: Manifest, artifact: Artifact, name: str, base: str | None) -> Iterator[str]:
    if manifest.content == "dataset":
        yield f'## How to load it\n\n```python\nfrom datasets import load_dataset\n\nrows = load_dataset("{name}")\n```'
        return
    if (artifact.path / WEIGHTS).exists():
        code = (
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
            f'base = AutoModelForCausalLM.from_pretrained("{base or "PATH_OF_ITS_BASE"}")\n'
            f'model = PeftModel.from_pretrained(base, "{name}")'
        )
        serve = f"vllm serve {base or 'PATH_OF_ITS_BASE'} --enable-lora --lora-modules tuned={name}"
    else:
        loader = "AutoModelForCausalLM" if _is_causal(manifest, artifact) else "AutoModel"
        code = (
            f"from transformers import {loader}, AutoTokenizer\n\n"
            f'model = {loader}.from_pretrained("{name}", dtype="auto")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")'
        )
        serve = f"vllm serve {name}" if _is_causal(manifest, artifact) else ""
    yield f"## How to load it\n\n```python\n{code}\n```" + (f"\n\n```console\n$ {serve}\n```" if serve else "")


def _scores(manifest: Manifest, store: Store) -> Iterator[str]:
    """The results of the evaluations in the store that measured it."""
    measured = [one for one in children(manifest, store.manifests()) if one.kind == "evaluate"]
    if measured:
        rows = "\n".join(f"| {one.name} | {one.headline.replace('|', '/')} |" for one in measured)
        yield f"## Scores\n\n| evaluation | result |\n|---|---|\n{rows}"


def _tree(node: Ancestor, depth: int) -> Iterator[str]:
    indent = "  " * depth
    if node.manifest is None:
        yield f"{indent}- {node.id} ({node.field}), no longer in the store, `sha256:{node.digest[:12]}`"
        return
    source = node.manifest.spec.get("source") if node.manifest.kind == "import" else None
    origin = ""
    if isinstance(source, dict):
        commit = node.manifest.metrics.get("source", {}).get("commit", source.get("revision"))
        package = f"package {source.get('package')} {source.get('version')}"
        places = {"hub": f"{source.get('repository')}@{commit}", "folder": "a folder"}
        origin = f" from {places.get(source['type'], package)}"
    licences = ", ".join(node.manifest.licences) or "no licence named"
    named = f" as `{node.field}`" if node.field else ""
    yield f"{indent}- {node.id}{named}: {node.manifest.kind}{origin}; {licences}; `sha256:{node.digest[:12]}`"
    for parent in node.parents:
        yield from _tree(parent, depth + 1)


def _packages(manifest: Manifest) -> str:
    wanted = ("torch", "transformers", "peft", "deepspeed", "compressed-tensors")
    return ", ".join(f"{name} {manifest.packages[name]}" for name in wanted if name in manifest.packages)
