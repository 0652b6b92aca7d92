"""`rayloom init TEMPLATE`: commented job files to begin with."""

from __future__ import annotations

import argparse
from pathlib import Path

from rayloom.commands.job_files import templates
from rayloom.commands.output import console, plain_table
from rayloom.errors import InputError
from rayloom.observe.progress import say
from rayloom.specs.files.problems import nearest


def init(options: argparse.Namespace) -> None:
    """Writes a starter file, or lists what there is."""
    known = templates()
    if options.template is None:
        table = plain_table("template", "what it is")
        for name, content in known.items():
            table.add_row(name, content.splitlines()[0].lstrip("# "))
        console().print(table)
        return
    if options.template not in known:
        fix = f"The templates are {', '.join(known)}{nearest(options.template, known) or '.'}"
        raise InputError(f"There is no template {options.template!r}", fix=fix)
    output = options.output or Path(f"{options.template}.yaml")
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(known[options.template])
    except FileExistsError:
        fix = "Remove it, or name another file with --output."
        raise InputError("This file is there already", where=str(output), fix=fix) from None
    say(f"{output}: edit it, then `rayloom check {output}` and `rayloom plan {output}`")
