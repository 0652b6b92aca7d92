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


def _seconds(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"must be more than 0 (it is {text})")
    return number


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most 1 (it is {text})")
    return share


def _flag(name: str, text: str) -> Add:
    return _argument(name, action="store_true", help=text)


_ARTIFACTS = "rayloom.commands.artifacts"
_JOBS = "rayloom.commands.cluster.jobs"
_SERVICES = "rayloom.commands.endpoint.service"
_ADDRESS = _argument(
    "--address",
    metavar="URL",
    help="the cluster's dashboard, http://HEAD:8265; default: the one on this machine",
)
_JOB = _argument("job", metavar="JOB", help="name or id, as `rayloom jobs list` shows them")
_SERVICE = _argument("service", metavar="SERVICE", help="the name in its job file; `rayloom serve status` lists them")

COMMANDS: tuple[Command, ...] = (
    Command(
        "init",
        "write a starter job file",
        "rayloom.commands.init:init",
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
    Command(
        "plan",
        "what a job would do, without compute",
        "rayloom.commands.plan:plan",
        (_file, _set, _flag("--probe", "also measure a little of the job on this machine")),
    ),
    Command(
        "run",
        "run a job on the Ray cluster at RAY_ADDRESS, or on an embedded one",
        "rayloom.commands.run:run",
        (
            _file,
            _set,
            _argument(
                "--as-stage", metavar="STAGE", default="",
                help="as that stage of a pipeline: a serve job is started, checked and shut down",
            ),
        ),
    ),
    Command(
        "submit",
        "run a job on another cluster through Ray Jobs",
        "rayloom.commands.cluster.submit:submit",
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
        "rayloom.commands.cluster.manifest:manifest",
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
            _argument(
                "--api-keys", metavar="NAME",
                help="of a service: a Secret whose values open it, each under the name of whom it was given to",
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
                "rayloom.commands.cluster.local_cluster:up",
                (
                    _argument("--nodes", type=_positive, default=3, help="with the head; default 3"),
                    _argument("--cpus-per-node", type=_positive, default=2, help="logical; default 2"),
                    _argument("--port", type=int, default=6399, help="of the head; default 6399"),
                    _argument("--dashboard-port", type=int, default=8265, help="default 8265"),
                    _flag("--own-networks", "an address for each node, whose cable can be pulled; as root on Linux"),
                ),
            ),
            Command("down", "end it", "rayloom.commands.cluster.local_cluster:down"),
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
        "rayloom.commands.endpoint.chat:chat",
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
        "bench",
        "load a served model, and say how fast it answers",
        "rayloom.commands.endpoint.bench:bench",
        (
            _argument("url", metavar="URL", help="http://HOST:PORT of the endpoint"),
            _argument("--model", metavar="NAME", help="default: the first that the endpoint lists"),
            _argument("--clients", type=_positive, default=8, metavar="N", help="closed loop of so many; default 8"),
            _argument("--rate", type=_seconds, metavar="R", help="instead: R requests a second at random moments"),
            _argument("--requests", type=_positive, default=64, metavar="N", help="in all; default 64"),
            _argument("--prompts", type=Path, metavar="FILE", help='one a line, as text or {"prompt": …}'),
            _argument("--max-new-tokens", type=_positive, default=64, metavar="N", help="of each answer; default 64"),
            _flag("--ignore-eos", "every answer is as long as it may be"),
            _argument("--seed", type=int, default=0, metavar="N", help="of the random moments"),
            _argument("--good-ttft", type=_seconds, metavar="S", help="a good answer begins within S seconds"),
            _argument("--good-tpot", type=_seconds, metavar="S", help="… takes at most S seconds a token after that"),
            _argument("--good-latency", type=_seconds, metavar="S", help="… is whole within S seconds"),
            _argument("--save", type=Path, metavar="FILE", help="keep the figures there as JSON"),
            _argument("--report", type=Path, metavar="FILE", help="write an HTML report there"),
            _json,
        ),
    ),
    Command(
        "predict",
        "what a model says about texts: labels, entities, or an answer",
        "rayloom.commands.predict:predict",
        (
            _argument("artifact", metavar="ARTIFACT", help="a model or adapter: NAME, or NAME@VERSION"),
            _argument("--text", action="append", metavar="TEXT", help="may be repeated; default: standard input"),
            _argument("--pair", metavar="TEXT", help="the second text, where the label is about two"),
            _argument("--question", metavar="TEXT", help="what is asked about the text"),
            _argument("--max-new-tokens", type=_positive, default=256, metavar="N", help="of an answer; default 256"),
            _json,
        ),
    ),
    Command(
        "serve",
        "change running services, which `rayloom run` on a serve job starts",
        commands=(
            Command(
                "update", "roll to what a job file says now, without a gap", f"{_SERVICES}:update",
                (
                    _file,
                    _set,
                    _argument("--share", type=_share, default=1.0, metavar="S",
                              help="part of the requests for new versions until they are promoted; default 1: all"),
                ),
            ),
            Command("promote", "give versions on trial all requests", f"{_SERVICES}:promote", (_SERVICE,)),
            Command(
                "rollback", "take back versions on trial, or else the last update",
                f"{_SERVICES}:rollback", (_SERVICE,),
            ),
            Command(
                "status", "what serves what", f"{_SERVICES}:status",
                (_argument("service", nargs="?", metavar="SERVICE", help="default: all"), _json),
            ),
        ),
    ),
    Command(
        "keys",
        "API keys of the store's services",
        commands=(
            Command(
                "create", "print a new key", "rayloom.commands.endpoint.keys:create",
                (
                    _argument("name", metavar="NAME", help="whom it is for; stands in the list"),
                    _argument("--requests-per-minute", type=_positive, metavar="N", help="instead of the service's"),
                ),
            ),
            Command("list", "every key, without its secret", "rayloom.commands.endpoint.keys:list_all", (_json,)),
            Command("revoke", "let a key open nothing any more", "rayloom.commands.endpoint.keys:revoke",
                    (_argument("id", metavar="ID", help="as `rayloom keys list` shows it"),)),
        ),
    ),
    Command(
        "explain",
        "what a kind of job, or one key of its job files, means",
        "rayloom.commands.explain:explain",
        (_argument("path", nargs="?", metavar="KIND.KEY", help="such as train.adapter.rank; default: the kinds"),),
    ),
    Command(
        "doctor",
        "what works on this machine, and what to do about the rest",
        "rayloom.commands.doctor:doctor",
        (_json, _argument("--lock", choices=("cpu", "gpu"), help="only print where the list of tested packages is")),
    ),
    Command(
        "schema",
        "the JSON schema of a kind of job, for editors",
        "rayloom.commands.schema:schema",
        (_argument("kind", metavar="KIND", help="import, clean, train, …"),),
    ),
)  # fmt: skip
