"""The table of commands: the name, arguments and function of each.

Functions are named as `module:function` and imported only when their command is called; each takes the parsed options
and returns the exit code, or None for 0.
"""

from __future__ import annotations

from pathlib import Path

from rayloom.commands.options import (
    ADDRESS,
    ARTIFACT,
    BENCH_OPTIONS,
    FILE,
    JOB,
    JSON,
    MODEL,
    PUSH_OPTIONS,
    RATE_OPTIONS,
    SERVICE,
    SET,
    UI_OPTIONS,
    URL,
    Command,
    argument,
    flag,
    positive,
    share,
)  # fmt: skip

_ARTIFACTS = "rayloom.commands.artifacts"
_JOBS = "rayloom.commands.cluster.jobs"
_SERVICES = "rayloom.commands.endpoint.service"
_PUSH = "rayloom.commands.push:push"

COMMANDS: tuple[Command, ...] = (
    Command(
        "init",
        "write a starter job file, the quickstart, or a recipe with the job files that it needs",
        "rayloom.commands.init:init",
        (
            argument("template", nargs="?", metavar="NAME", help="a starter, `quickstart` or `recipes/NAME`"),
            argument("--output", type=Path, metavar="PATH", help="the starter's file, or the folder for the others"),
            flag("--list", "list starters and recipes, as without NAME"),
        ),
    ),
    Command(
        "check",
        "validate job files without running anything",
        "rayloom.commands.check:check",
        (argument("files", nargs="+", type=Path, metavar="FILE", help="job files"),),
    ),
    Command(
        "plan",
        "show what a job would do, without doing it",
        "rayloom.commands.plan:plan",
        (FILE, SET, flag("--probe", "also measure a few steps here"), flag("--all", "look at every row, no sample")),
    ),
    Command(
        "run",
        "run a job on the Ray cluster at RAY_ADDRESS, or on one that starts and ends with the command",
        "rayloom.commands.run:run",
        (
            FILE,
            SET,
            argument(
                "--as-stage", metavar="STAGE", default="",
                help="run it as this stage of a pipeline; a serve job is then started, checked and shut down",
            ),
        ),
    ),
    Command(
        "submit",
        "run a job on another cluster through Ray Jobs",
        "rayloom.commands.cluster.submit:submit",
        (
            FILE,
            SET,
            ADDRESS,
            argument("--name", metavar="NAME", help="name for `rayloom jobs`; default: the job's name"),
            argument("--store", metavar="URI", help="the store as the cluster sees it; default: RAYLOOM_STORE"),
            flag("--wait", "wait until the job ends, and exit with its exit code"),
            flag("--follow", "print the job's log until it ends, and exit with its exit code"),
        ),
    ),
    Command(
        "manifest",
        "print the Kubernetes objects that run a job on KubeRay",
        "rayloom.commands.cluster.manifest:manifest",
        (
            FILE,
            argument("--image", required=True, metavar="IMAGE", help="built from cluster/Dockerfile.cpu or .gpu"),
            argument("--store", metavar="URI", help="the store as the pods see it; default: RAYLOOM_STORE"),
            argument("--store-claim", metavar="CLAIM", help="a PersistentVolumeClaim to mount at the store's path"),
            argument("--namespace", metavar="NAME", help="the objects' namespace; default: kubectl's own"),
            argument(
                "--secret", action="append", default=[], metavar="NAME",
                help="a Secret whose keys become environment variables, such as HF_TOKEN; may be repeated",
            ),
            argument("--api-keys", metavar="NAME", help="for a service: a Secret with an API key for each named owner"),
            argument("--spot", metavar="LABEL=VALUE", help="label of spot nodes, which workers then prefer"),
            argument("--retries", type=int, default=2, metavar="N", help="attempts after the first; default 2"),
            argument("--worker-memory-gib", type=positive, default=8, metavar="N", help="GiB per worker; default 8"),
            argument("--nodes", type=Path, metavar="FILE", help="the machines, as in cluster/kuberay/nodes.yaml"),
        ),
    ),
    Command(
        "jobs",
        "list, follow, stop and retry the jobs of a cluster",
        commands=(
            Command("list", "list all jobs", f"{_JOBS}:list_jobs", (ADDRESS, JSON)),
            Command("status", "show one job, and exit with its exit code", f"{_JOBS}:status", (JOB, ADDRESS, JSON)),
            Command(
                "logs", "print a job's log", f"{_JOBS}:logs",
                (JOB, ADDRESS, flag("--follow", "go on until the job ends")),
            ),
            Command("stop", "let a job save its checkpoint and end", f"{_JOBS}:stop", (JOB, ADDRESS)),
            Command("retry", "continue a failed or stopped job", f"{_JOBS}:retry", (JOB, ADDRESS)),
        ),
    ),
    Command(
        "cluster",
        "start and stop a cluster of several nodes on this machine, for trying things",
        commands=(
            Command(
                "up",
                "start the cluster",
                "rayloom.commands.cluster.local_cluster:up",
                (
                    argument("--nodes", type=positive, default=3, help="nodes, the head included; default 3"),
                    argument("--cpus-per-node", type=positive, default=2, help="logical CPUs per node; default 2"),
                    argument("--port", type=int, default=6399, help="port of the head; default 6399"),
                    argument("--dashboard-port", type=int, default=8265, help="port of the dashboard; default 8265"),
                    flag("--own-networks", "give each node a network of its own, which can be cut; as root on Linux"),
                    flag("--own-disks", "and a disk of its own: nodes then share a bucket, which starts with them"),
                ),
            ),
            Command("down", "stop the cluster", "rayloom.commands.cluster.local_cluster:down"),
        ),
    ),
    Command("push", "publish an artifact with its card, on the Hugging Face hub or in a folder", _PUSH, PUSH_OPTIONS),
    Command(
        "artifacts",
        "list, show, trace, verify and remove what the store holds",
        commands=(
            Command(
                "list",
                "list all artifacts by name",
                f"{_ARTIFACTS}:list_all",
                (
                    argument("name", nargs="?", metavar="NAME", help="only this name, with all its versions"),
                    flag("--all", "all versions, not only the current one of each name"),
                    JSON,
                ),
            ),
            Command("show", "show one artifact: its spec, metrics and files", f"{_ARTIFACTS}:show", (ARTIFACT, JSON)),
            Command(
                "lineage", "show what an artifact was made from, back to its sources", f"{_ARTIFACTS}:lineage",
                (ARTIFACT, JSON),
            ),
            Command(
                "verify",
                "read every byte again and compare it with the manifest",
                f"{_ARTIFACTS}:verify",
                (argument("artifacts", nargs="*", metavar="ARTIFACT", help="default: all"), JSON),
            ),
            Command(
                "gc",
                "show which artifacts and unfinished work would be removed; with --delete, remove them",
                f"{_ARTIFACTS}:gc",
                (
                    argument("artifacts", nargs="*", metavar="NAME@VERSION", help="default: only unfinished work"),
                    flag("--delete", "remove them"),
                    flag("--force", "also artifacts that others were made from"),
                    JSON,
                ),
            ),
        ),
    ),
    Command(
        "report",
        "write an artifact's report as one HTML page",
        "rayloom.commands.report:report",
        (ARTIFACT, argument("--output", type=Path, metavar="FILE", help="default: NAME-VERSION.html in this folder")),
    ),
    Command("rate", "let people judge answers or rows, blind", "rayloom.ui.rating.command:rate", RATE_OPTIONS),
    Command("ui", "serve web pages about the store, its rows, jobs and services", "rayloom.ui.command:ui", UI_OPTIONS),
    Command(
        "chat",
        "talk to a served model",
        "rayloom.commands.endpoint.chat:chat",
        (
            URL,
            MODEL,
            argument("--system", metavar="TEXT", help="the system message"),
            argument("--max-new-tokens", type=positive, metavar="N", help="longest answer, in tokens"),
            argument("--temperature", type=float, metavar="T", help="0 gives the same answer each time"),
            argument("--save", type=Path, metavar="FILE", help="save the conversation as JSON"),
        ),
    ),
    Command(
        "bench",
        "load a served model and measure how fast it answers",
        "rayloom.commands.endpoint.bench:bench",
        BENCH_OPTIONS,
    ),
    Command(
        "predict",
        "show what a model says about texts: labels, entities, or an answer",
        "rayloom.commands.predict:predict",
        (
            argument("artifact", metavar="ARTIFACT", help="a model or adapter: NAME, or NAME@VERSION"),
            argument("--text", action="append", metavar="TEXT", help="may be repeated; default: standard input"),
            argument("--pair", metavar="TEXT", help="the second text, if the label is about two"),
            argument("--question", metavar="TEXT", help="what is asked about the text"),
            argument(
                "--max-new-tokens", type=positive, default=256, metavar="N", help="longest answer; default 256 tokens"
            ),
            JSON,
        ),
    ),
    Command(
        "serve",
        "change running services, which `rayloom run` on a serve job starts",
        commands=(
            Command(
                "update", "change a running service to what a job file says now, without a gap",
                f"{_SERVICES}:update",
                (
                    FILE,
                    SET,
                    argument("--share", type=share, default=1.0, metavar="S",
                             help="share of the requests for new versions until they are promoted; default 1: all"),
                ),
            ),
            Command("promote", "give versions on trial all requests", f"{_SERVICES}:promote", (SERVICE,)),
            Command(
                "rollback", "take back versions on trial, or else the last update",
                f"{_SERVICES}:rollback", (SERVICE,),
            ),
            Command(
                "status", "show which versions each service runs", f"{_SERVICES}:status",
                (argument("service", nargs="?", metavar="SERVICE", help="default: all"), JSON),
            ),
        ),
    ),
    Command(
        "keys",
        "create, list and revoke API keys of the store's services",
        commands=(
            Command(
                "create", "print a new key", f"{_SERVICES}:create",
                (
                    argument("name", metavar="NAME", help="who it is for; shown in the list"),
                    argument("--requests-per-minute", type=positive, metavar="N", help="instead of the service's"),
                ),
            ),
            Command("list", "list all keys, without their secrets", f"{_SERVICES}:list_all", (JSON,)),
            Command("revoke", "make a key invalid", f"{_SERVICES}:revoke",
                    (argument("id", metavar="ID", help="as `rayloom keys list` shows it"),)),
        ),
    ),
    Command(
        "explain",
        "say what a kind of job, or one key of its job files, means",
        "rayloom.commands.explain:explain",
        (argument("path", nargs="?", metavar="KIND.KEY", help="such as train.adapter.rank; default: the kinds"),),
    ),
    Command(
        "schema",
        "print the JSON schema of a kind of job for editors, or its reference page",
        "rayloom.commands.schema:schema",
        (
            argument("kind", nargs="?", metavar="KIND", help="import, clean, train, …; default: every kind"),
            flag("--markdown", "a page for people instead of the schema"),
            argument("--output", type=Path, metavar="FOLDER", help="write KIND.json or KIND.md there"),
        ),
    ),
    Command("doctor", "say what works on this machine, and what to do about the rest",
            "rayloom.commands.doctor:doctor",
            (JSON, argument("--lock", choices=("cpu", "gpu"), help="only print where the list of tested packages is"))),
)  # fmt: skip
