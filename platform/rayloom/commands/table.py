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


def _flag(name: str, text: str) -> Add:
    return _argument(name, action="store_true", help=text)


_ARTIFACTS = "rayloom.commands.artifacts"

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
