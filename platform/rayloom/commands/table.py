"""The one table of commands: what each is called, what it takes, and which function answers it.

Functions are named as `module:function` and imported only when their command is called; each takes the parsed options
and returns an exit code, None for 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Add = Callable[[argparse.ArgumentParser], object]


@dataclass(frozen=True)
class Command:
    """One command, or a group of them."""

    name: str
    help: str
    call: str = ""
    """`module:function`; empty for a group."""
    arguments: tuple[Add, ...] = ()
    commands: tuple[Command, ...] = field(default=())


def _file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a job file")


def _set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="override one field; may be repeated",
    )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs instead of a table for people")


def _artifact(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", metavar="ARTIFACT", help="NAME, or NAME@VERSION (or the beginning of a version)")


def _argument(*names: str, **settings: object) -> Add:
    return lambda parser: parser.add_argument(*names, **settings)  # type: ignore[arg-type]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1 (it is {number})")
    return number


def _flag(name: str, text: str) -> Add:
    return _argument(name, action="store_true", help=text)


_ARTIFACTS = "rayloom.commands.artifacts"
_JOBS = "rayloom.commands.cluster_jobs"
_ADDRESS = _argument(
    "--address",
    metavar="URL",
    help="the cluster's dashboard, http://HEAD:8265; default: the one on this machine",
)
_JOB = _argument("job", metavar="JOB", help="name or id, as `rayloom jobs list` shows them")

COMMANDS: tuple[Command, ...] = (
    Command(
        "init",
        "write a starter job file",
        "rayloom.commands.starters:init",
        (
            _argument("template", nargs="?", metavar="TEMPLATE", help="without it, the templates are listed"),
            _argument("--output", type=Path, metavar="FILE", help="default: TEMPLATE.yaml in this folder"),
        ),
    ),
    Command(
        "check",
        "validate job files, loading nothing heavy",
        "rayloom.commands.check:check",
        (_argument("files", nargs="+", type=Path, metavar="FILE", help="job files"),),
    ),
    Command("plan", "what a job would do, without compute", "rayloom.commands.plan:plan", (_file, _set)),
    Command(
        "run",
        "run a job on the Ray cluster at RAY_ADDRESS, or on an embedded one",
        "rayloom.commands.run:run",
        (_file, _set),
    ),
    Command(
        "submit",
        "run a job on another cluster through Ray Jobs",
        "rayloom.commands.submit:submit",
        (
            _file,
            _set,
            _ADDRESS,
            _argument("--name", metavar="NAME", help="what `rayloom jobs` calls it; default: the job's name"),
            _argument("--store", metavar="URI", help="the store as the cluster sees it; default: RAYLOOM_STORE"),
            _flag("--wait", "stay until it ends, and end with its exit code"),
            _flag("--follow", "print its log until it ends, and end with its exit code"),
        ),
    ),
    Command(
        "manifest",
        "print the Kubernetes objects that run a job on KubeRay",
        "rayloom.commands.manifest:manifest",
        (
            _file,
            _argument("--image", required=True, metavar="IMAGE", help="built from cluster/Dockerfile.cpu or .gpu"),
            _argument("--store", metavar="URI", help="the store as the pods see it; default: RAYLOOM_STORE"),
            _argument("--store-claim", metavar="CLAIM", help="a PersistentVolumeClaim to mount at the store's path"),
            _argument("--namespace", metavar="NAME"),
            _argument(
                "--secret", action="append", default=[], metavar="NAME",
                help="a Secret whose keys become environment variables, such as HF_TOKEN; may be repeated",
            ),
            _argument("--spot", metavar="LABEL=VALUE", help="label of spot nodes, which workers then prefer"),
            _argument("--retries", type=int, default=2, metavar="N", help="attempts after the first; default 2"),
            _argument("--worker-memory-gib", type=_positive, default=8, metavar="N", help="of each worker; default 8"),
        ),
    ),
    Command(
        "jobs",
        "the jobs of a cluster",
        commands=(
            Command("list", "every job", f"{_JOBS}:list_jobs", (_ADDRESS, _json)),
            Command("status", "one job; ends with its exit code", f"{_JOBS}:status", (_JOB, _ADDRESS, _json)),
            Command(
                "logs", "what a job said", f"{_JOBS}:logs",
                (_JOB, _ADDRESS, _flag("--follow", "stay until the job ends")),
            ),
            Command("stop", "let a job save its checkpoint and end", f"{_JOBS}:stop", (_JOB, _ADDRESS)),
            Command("retry", "run a failed or stopped job again, where it was", f"{_JOBS}:retry", (_JOB, _ADDRESS)),
        ),
    ),
    Command(
        "cluster",
        "a cluster of several nodes on this machine, for trying things",
        commands=(
            Command(
                "up",
                "start it",
                "rayloom.commands.local_cluster:up",
                (
                    _argument("--nodes", type=_positive, default=3, help="with the head; default 3"),
                    _argument("--cpus-per-node", type=_positive, default=2, help="logical; default 2"),
                    _argument("--port", type=int, default=6399, help="of the head; default 6399"),
                    _argument("--dashboard-port", type=int, default=8265, help="default 8265"),
                ),
            ),
            Command("down", "end it", "rayloom.commands.local_cluster:down"),
        ),
    ),
    Command(
        "artifacts",
        "what the store holds",
        commands=(
            Command(
                "list",
                "every artifact, by name",
                f"{_ARTIFACTS}:list_all",
                (
                    _argument("name", nargs="?", metavar="NAME", help="only this name, with all its versions"),
                    _flag("--all", "all versions, not only the current one of each name"),
                    _json,
                ),
            ),
            Command("show", "one artifact: its spec, metrics and files", f"{_ARTIFACTS}:show", (_artifact, _json)),
            Command(
                "lineage", "what an artifact was made from, back to its sources", f"{_ARTIFACTS}:lineage",
                (_artifact, _json),
            ),
            Command(
                "verify",
                "read every byte again and compare it with the manifest",
                f"{_ARTIFACTS}:verify",
                (_argument("artifacts", nargs="*", metavar="ARTIFACT", help="default: all"), _json),
            ),
            Command(
                "gc",
                "remove artifacts and what killed runs left; shows what would go, until --delete",
                f"{_ARTIFACTS}:gc",
                (
                    _argument("artifacts", nargs="*", metavar="NAME@VERSION", help="default: only unfinished work"),
                    _flag("--delete", "do it"),
                    _flag("--force", "also artifacts that others were made from"),
                    _json,
                ),
            ),
        ),
    ),
    Command(
        "report",
        "write an artifact's report as one HTML page",
        "rayloom.commands.report:report",
        (_artifact, _argument("--output", type=Path, metavar="FILE", help="default: NAME-VERSION.html in this folder")),
    ),
    Command(
        "chat",
        "talk to a served model",
        "rayloom.commands.chat:chat",
        (
            _argument("url", metavar="URL", help="http://HOST:PORT of the endpoint"),
            _argument("--model", metavar="NAME", help="default: the first that the endpoint lists"),
            _argument("--system", metavar="TEXT", help="the system message"),
            _argument("--max-new-tokens", type=_positive, metavar="N", help="of each answer"),
            _argument("--temperature", type=float, metavar="T", help="0 gives the same answer each time"),
            _argument("--save", type=Path, metavar="FILE", help="keep the conversation there as JSON"),
        ),
    ),
    Command(
        "doctor",
        "what works on this machine, and what to do about the rest",
        "rayloom.commands.doctor:doctor",
        (_json,),
    ),
    Command(
        "schema",
        "the JSON schema of a kind of job, for editors",
        "rayloom.commands.schema:schema",
        (_argument("kind", metavar="KIND", help="import, clean, train, …"),),
    ),
)  # fmt: skip
