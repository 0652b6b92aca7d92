"""The parts of the table of commands: the command, shared arguments, and parsers of numbers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Add = Callable[[argparse.ArgumentParser], object]
"""Adds one argument to a command's parser."""


@dataclass(frozen=True)
class Command:
    """One command, or a group of them."""

    name: str
    help: str
    call: str = ""
    """`module:function`; empty for a group."""
    arguments: tuple[Add, ...] = ()
    commands: tuple[Command, ...] = field(default=())


def argument(*names: str, **settings: object) -> Add:
    return lambda parser: parser.add_argument(*names, **settings)  # type: ignore[arg-type]


def flag(name: str, text: str) -> Add:
    return argument(name, action="store_true", help=text)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1 (it is {number})")
    return number


def seconds(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"must be more than 0 (it is {text})")
    return number


def share(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most 1 (it is {text})")
    return number


FILE = argument("file", type=Path, metavar="FILE", help="a job file")
SET = argument(
    "--set", action="append", default=[], metavar="PATH=VALUE", help="override one field; may be repeated"
)  # fmt: skip
JSON = argument("--json", action="store_true", help="print JSON for programs instead of a table for people")
ARTIFACT = argument("artifact", metavar="ARTIFACT", help="NAME, or NAME@VERSION (or the beginning of a version)")
ADDRESS = argument(
    "--address", metavar="URL", help="the cluster's dashboard, http://HEAD:8265; default: the one on this machine"
)
JOB = argument("job", metavar="JOB", help="name or id, as `rayloom jobs list` shows them")
SERVICE = argument("service", metavar="SERVICE", help="the name in its job file; `rayloom serve status` lists them")
URL = argument("url", metavar="URL", help="http://HOST:PORT of the endpoint")
MODEL = argument("--model", metavar="NAME", help="default: the first that the endpoint lists")

PUSH_OPTIONS = (
    ARTIFACT,
    argument("target", metavar="TARGET", help="hf://ORGANISATION/NAME[@BRANCH] (needs HF_TOKEN), or a new folder"),
    flag("--private", "make the repository private"),
    argument("--licence", metavar="NAME", help="what you publish it under; default: the licences of its lineage"),
    flag("--dry-run", "only show the card and the files"),
)
