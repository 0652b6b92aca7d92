"""The applications of a service as Ray Serve builds them from a config of its own, such as KubeRay's serveConfigV2.

`rayloom.serve.declarative:model` and `:gateway` are the import paths; `rayloom manifest` writes what they take. Each
reads the job file and the store that its node sees, so the config holds neither models nor keys. A service that is
declared so is changed by applying another config, not by `rayloom serve update`.
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
"""It waits more than it computes, but a head that offers no CPU must not get it: requests would end with the head."""


def model(arguments: Mapping[str, Any]) -> Any:
    """The application of one model. `job`: the job file; `model`: its name there."""
    spec, _, versions = _service(arguments["job"])
    return model_application(versions[arguments["model"]].engine, spec.gateway_replicas)


def gateway(arguments: Mapping[str, Any]) -> Any:
    """The application that all requests enter by. `job`: the job file; `keys_folder`: further API keys, or None."""
    spec, store, versions = _service(arguments["job"])
    routes = routes_to({name: [(made, 1.0)] for name, made in versions.items()})
    settings = dataclasses.replace(gateway_settings(spec, store), keys_folder=arguments.get("keys_folder"))
    return gateway_application(settings, routes, GATEWAY_CPUS)


def _service(file: str) -> tuple[ServeSpec, Store, dict[str, Version]]:
    """The spec, its store, and what to run for each model. Raises InputError where the store lacks one."""
    job = load(Path(file), {"serve": ServeSpec})
    assert isinstance(job.spec, ServeSpec)
    store = Store.beside(job.directory)
    return job.spec, store, versions_of(job.spec, _parents(job.spec, store), store)


def _parents(spec: ServeSpec, store: Store) -> dict[str, Artifact]:
    parents = {}
    for reference in references(spec):
        manifest = store.resolve(reference.text)
        check_content(reference, manifest)
        # Manifests say all that is needed here; the files are fetched by the nodes whose replicas load them.
        parents[reference.path] = Artifact(manifest, Path(store.location(manifest.name, manifest.version)))
    return parents
