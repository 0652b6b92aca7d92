"""The command `rayloom`: parses arguments, imports only the sub-command's code and calls it; prints errors."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence

import rayloom
from rayloom.commands.options import Command
from rayloom.commands.table import COMMANDS
from rayloom.engine_errors import causes
from rayloom.errors import INTERRUPTED_EXIT_CODE, unwrapped

BROKEN_PIPE_EXIT_CODE = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code (see `rayloom.errors`)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser(arguments).parse_args(arguments)
    # Pydantic looks for plugins in the metadata of every installed package, which takes longer than reading a job file.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = _answer(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader closed the pipe. Without this, Python's flush at exit would raise the same error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE_EXIT_CODE


def _answer(options: argparse.Namespace) -> int:
    try:
        module, _, function = options.call.partition(":")
        return getattr(importlib.import_module(module), function)(options) or 0
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        print("stopped; the same command continues where it can", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    except Exception as error:  # noqa: BLE001 (the only place that turns a defect into a message)
        if options.debug:
            traceback.print_exc()
        message, code = message_for(error)
        print(message, file=sys.stderr)
        return code


def parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of all commands, with the options of those that are named: the others cannot be called."""
    parser = argparse.ArgumentParser(prog="rayloom", description="From raw text to a served language model.")
    parser.add_argument("--version", action="version", version=f"rayloom {rayloom.__version__}")
    _add(parser, COMMANDS, arguments)
    return parser


def _add(parser: argparse.ArgumentParser, commands: Sequence[Command], named: Sequence[str]) -> None:
    group = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in commands:
        added = group.add_parser(command.name, help=command.help, description=command.help)
        if command.name not in named:
            continue
        if command.commands:
            _add(added, command.commands, named)
            continue
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        for argument in command.arguments:
            argument(added)
        added.set_defaults(call=command.call)


# The message of a failed command.


def message_for(error: BaseException) -> tuple[str, int]:
    """The message for the user, with the notes of the error and of all errors that it wraps, and the exit code."""
    meant = unwrapped(error)
    notes = dict.fromkeys(note for inner in causes(error) for note in getattr(inner, "__notes__", ()))
    return "\n".join([f"error: {meant}", *notes]), meant.exit_code
