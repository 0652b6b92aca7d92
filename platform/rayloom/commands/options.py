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
    flag("--with-demonstrations", "also the training rows that the prompt of a prompted model shows"),
    flag("--dry-run", "only show the card and the files"),
)

BENCH_OPTIONS = (
    URL,
    MODEL,
    argument("--clients", type=positive, default=8, metavar="N", help="clients that ask in turn; default 8"),
    argument("--rate", type=seconds, metavar="R", help="instead: R requests per second at random moments"),
    argument("--requests", type=positive, default=64, metavar="N", help="requests in all; default 64"),
    argument("--prompts", type=Path, metavar="FILE", help='one per line, as text or {"prompt": …}'),
    argument("--max-new-tokens", type=positive, default=64, metavar="N", help="tokens per answer; default 64"),
    flag("--ignore-eos", "every answer has --max-new-tokens tokens"),
    argument("--seed", type=int, default=0, metavar="N", help="seed of the random moments; default 0"),
    argument("--good-ttft", type=seconds, metavar="S", help="a good answer begins within S seconds"),
    argument("--good-tpot", type=seconds, metavar="S", help="a good answer takes at most S seconds per token"),
    argument("--good-latency", type=seconds, metavar="S", help="a good answer is complete within S seconds"),
    argument("--save", type=Path, metavar="FILE", help="save the figures as JSON"),
    argument("--report", type=Path, metavar="FILE", help="write an HTML report"),
    JSON,
)

RATE_OPTIONS = (
    argument(
        "artifacts",
        nargs="+",
        metavar="ARTIFACT",
        help="two with answers to the same prompts, a comparison, or one with rows",
    ),
    argument(
        "--file",
        metavar="PATH",
        help="the file in them; default: a comparison's answers, what cleaning dropped and kept, or predictions.jsonl",
    ),
    argument("--prompt", default="text", metavar="FIELD", help="field of the prompt, for two; default text"),
    argument("--answer", metavar="FIELD", help="field of the answer; default: the first of answer, completion, …"),
    argument("--rows", type=positive, default=200, metavar="N", help="items to judge; default 200"),
    argument("--each", type=positive, default=1, metavar="N", help="raters for each item; default 1"),
    argument("--seed", type=int, default=0, metavar="N", help="seed of the choice of items and their order; default 0"),
    argument("--result", metavar="NAME", help="name of the artifact; default: ARTIFACT-ratings"),
    flag("--finish", "make the artifact of what was judged"),
    argument("--port", type=int, default=8501, help="default 8501"),
    argument("--host", default="127.0.0.1", help="default 127.0.0.1: only this machine; others need a key"),
    argument("--store", metavar="URI", help="default: RAYLOOM_STORE, or .rayloom here or above"),
    argument("--name", action="append", default=[], metavar="NAME", help="another name of this machine"),
)

UI_OPTIONS = (
    argument("--port", type=int, default=8500, help="default 8500"),
    argument("--host", default="127.0.0.1", help="default 127.0.0.1: only this machine; others need a key"),
    argument("--store", metavar="URI", help="default: RAYLOOM_STORE, or .rayloom here or above"),
    argument("--name", action="append", default=[], metavar="NAME", help="another name of this machine"),
    argument("--address", metavar="URL", help="dashboard of a Ray cluster whose jobs are shown too"),
    flag("--write", "allow to run, submit and stop jobs; needs the key that is printed"),
)
