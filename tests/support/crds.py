"""KubeRay's published schemas, closed: the originals let unknown fields pass, so that a typo would too.

They are found through RAYLOOM_CRD_DIR (default ../shared/kuberay from the project's root): the four files
`ray.io_*.yaml` of ray-operator/config/crd/bases in KubeRay's repository, plain or gzipped.
"""

from __future__ import annotations

import functools
import gzip
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

FOLDER = Path(os.environ.get("RAYLOOM_CRD_DIR", Path(__file__).parents[3] / "shared" / "kuberay"))
PLURALS = {"RayJob": "rayjobs", "RayCluster": "rayclusters", "RayService": "rayservices"}


@functools.cache
def validator(kind: str) -> Draft202012Validator:
    """The closed validator of a kind; skips the test where the schemas are not at hand."""
    file = FOLDER / f"ray.io_{PLURALS[kind]}.yaml.gz"
    if not file.is_file():
        pytest.skip(f"KubeRay's schemas are not in {FOLDER}; see {__name__} for how to get them")
    definition = yaml.load(gzip.decompress(file.read_bytes()), Loader=yaml.CSafeLoader)
    version = next(entry for entry in definition["spec"]["versions"] if entry["name"] == "v1")
    schema = _closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, which a definition leaves open
    return Draft202012Validator(schema)


def _closed(schema: Any) -> Any:
    """The schema with every object that names its properties closed to others, and Kubernetes' own words translated."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = {key: _closed(value) for key, value in schema.items()}
    keeps_unknown = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not keeps_unknown:
        closed["additionalProperties"] = False
    return closed


def problems(manifest: dict[str, Any]) -> list[str]:
    """One line for each place where an object breaks its schema."""
    errors = validator(manifest["kind"]).iter_errors(manifest)
    return [f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message[:200]}" for error in errors]
