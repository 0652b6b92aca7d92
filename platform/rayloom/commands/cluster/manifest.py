"""`rayloom manifest FILE`: the Kubernetes objects that run a job on KubeRay."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.metadata import version
from pathlib import Path

import yaml

from rayloom.dispatch import load_job
from rayloom.errors import InputError
from rayloom.pipeline.graph import load_stages
from rayloom.specs.files.load import Job, load_values
from rayloom.specs.kubernetes import NodeValues
from rayloom.specs.pipeline import PipelineSpec
from rayloom.specs.serve import ServeSpec
from rayloom.submit.manifest import manifest as objects_of
from rayloom.submit.package import job_files, named_paths
from rayloom.submit.pods import KubernetesChoices
from rayloom.submit.service_manifest import service_manifest
from rayloom.submit.submission import check_store


class _PlainDumper(yaml.SafeDumper):
    """Writes YAML without anchors, and texts of several lines as block scalars."""

    def ignore_aliases(self, _: object) -> bool:
        return True


def _block_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_PlainDumper.add_representer(str, _block_text)


def manifest(options: argparse.Namespace) -> None:
    """Prints the objects, ready for `kubectl apply --filename -`."""
    job = load_job(options.file)
    jobs = [item.job for item in load_stages(job.spec, job, load_job)] if isinstance(job.spec, PipelineSpec) else [job]
    store = options.store or os.environ.get("RAYLOOM_STORE", "")
    check_store(store)
    choices = KubernetesChoices(
        image=options.image,
        store=store,
        ray_version=version("ray"),
        namespace=options.namespace,
        store_claim=options.store_claim,
        secrets=tuple(options.secret),
        num_retries=options.retries,
        worker_memory_bytes=options.worker_memory_gib << 30,
        spot_selector=_pair(options.spot) if options.spot else None,
        api_keys_secret=options.api_keys,
        nodes=load_values(options.nodes, NodeValues) if options.nodes else NodeValues(),
    )
    if options.api_keys and not isinstance(job.spec, ServeSpec):
        raise InputError("--api-keys is for services", where=str(job.file), fix="Leave it out, or give a serve job.")
    files, entry = _texts(job, jobs)
    if isinstance(job.spec, ServeSpec):
        objects = service_manifest(job.spec, files, entry, choices)
    else:
        objects = objects_of(job.spec, [one.spec for one in jobs], files, entry, choices)
    sys.stdout.write(f"# Written by `rayloom manifest {options.file}`; apply with `kubectl apply --filename -`.\n")
    yaml.dump_all(objects, sys.stdout, Dumper=_PlainDumper, sort_keys=False, width=120)


def _texts(job: Job, jobs: list[Job]) -> tuple[dict[str, str], str]:
    """The job files by path relative to their common folder. Raises InputError if they name local data."""
    for one in jobs:
        for path in named_paths(one):
            fix = "Import it into the store first, and name it as artifact:NAME."
            raise InputError(
                "A manifest carries job files only, and this job reads local files", where=str(path), fix=fix
            )
    paths = job_files([job, *jobs])
    root = Path(os.path.commonpath([path.parent for path in paths]))
    texts = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    return texts, job.file.relative_to(root).as_posix()


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        fix = "Such as cloud.google.com/gke-spot=true or eks.amazonaws.com/capacityType=SPOT."
        raise InputError("--spot must be LABEL=VALUE of the spot nodes", where=text, fix=fix)
    return key, value
