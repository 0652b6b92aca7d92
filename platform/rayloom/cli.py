"""The command `rayloom`: parses arguments, then imports and calls what the sub-command needs, and nothing else."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from rayloom.errors import RayloomError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code (see `rayloom.errors`)."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options) or 0)
    except RayloomError as error:
        if options.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command continues where it can", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rayloom", description="From raw text to a served language model.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, call: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        added.set_defaults(command=call)
        return added

    check = command("check", _check, "validate job files, loading nothing heavy")
    check.add_argument("files", nargs="+", type=Path, metavar="FILE")
    for name, call, text in (
        ("plan", _plan, "what a job would do, without compute"),
        ("run", _run, "run a job on the Ray cluster at RAY_ADDRESS, or on an embedded one"),
    ):
        added = command(name, call, text)
        added.add_argument("file", type=Path, metavar="FILE")
        added.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override one field")
    return parser


def _check(options: argparse.Namespace) -> int:
    from rayloom.commands.jobs import check

    return check(options.files)


def _plan(options: argparse.Namespace) -> int:
    from rayloom.commands.jobs import plan

    return plan(options.file, options.set)


def _run(options: argparse.Namespace) -> int:
    from rayloom.commands.jobs import run

    return run(options.file, options.set)
