"""Application builders for Ray Serve config files, such as KubeRay's serveConfigV2.

Their import paths are `rayloom.serve.declarative:model` and `:gateway`; `rayloom manifest` writes their arguments. Each
reads the job file and the store on its node, so the config contains neither models nor keys. Such a service is changed
by applying another config, not by `rayloom serve update`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayloom.artifacts.build import check_content
from rayloom.artifacts.store import Artifact, Store
from rayloom.serve.applications import gateway_application, model_application
from rayloom.serve.lifecycle import Version, gateway_settings, routes_to, versions_of
from rayloom.specs.base import references
from rayloom.specs.files.load import load
from rayloom.specs.serve import ServeSpec

GATEWAY_CPUS = 1.0
"""Above 0, so that the gateway is not placed on a head node without CPUs, whose loss would end its requests."""


def model(arguments: Mapping[str, Any]) -> Any:
    """The application of one model. Arguments: `job`, the path of the job file; `model`, its name there."""
    spec, _, versions = _service(arguments["job"])
    return model_application(versions[arguments["model"]].engine, spec.gateway_replicas)


def gateway(arguments: Mapping[str, Any]) -> Any:
    """The gateway's application. Arguments: `job`, the path of the job file; `keys_folder`, more API keys or None."""
    spec, store, versions = _service(arguments["job"])
    routes = routes_to({name: [(made, 1.0)] for name, made in versions.items()})
    settings = dataclasses.replace(gateway_settings(spec, store), keys_folder=arguments.get("keys_folder"))
    return gateway_application(settings, routes, GATEWAY_CPUS)


def _service(file: str) -> tuple[ServeSpec, Store, dict[str, Version]]:
    """The spec, its store, and the version to run of each model. Raises InputError if the store lacks one."""
    job = load(Path(file), {"serve": ServeSpec})
    assert isinstance(job.spec, ServeSpec)
    store = Store.beside(job.directory)
    return job.spec, store, versions_of(job.spec, _parents(job.spec, store), store)


def _parents(spec: ServeSpec, store: Store) -> dict[str, Artifact]:
    parents = {}
    for reference in references(spec):
        manifest = store.resolve(reference.text)
        check_content(reference, manifest)
        # Only manifests are needed here; the nodes whose replicas load the files fetch them.
        parents[reference.path] = store.open(manifest)
    return parents
