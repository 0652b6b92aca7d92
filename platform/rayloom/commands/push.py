"""`rayloom push ARTIFACT TARGET`: publishes an artifact with its card on the hub, or in a folder."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from rayloom.commands.artifacts import store_here
from rayloom.commands.output import size
from rayloom.errors import InputError
from rayloom.export.push import publication, to_folder, to_hub
from rayloom.observe.progress import say

_TARGET = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def push(options: argparse.Namespace) -> None:
    """Publishes, or shows what would be published (`--dry-run`), which asks no one."""
    store = store_here()
    artifact = store.open(store.resolve(options.artifact))
    found = _TARGET.fullmatch(options.target)
    if options.target.startswith("hf://") and found is None:
        fix = "Write hf://ORGANISATION/NAME, with @BRANCH behind it if it is not main."
        raise InputError("This is no repository of the hub", where=options.target, fix=fix)
    name = found[1] if found else Path(options.target).name
    is_public = found is not None and not options.private
    what = publication(
        artifact,
        store,
        name,
        is_public=is_public,
        licence=options.licence,
        with_demonstrations=options.with_demonstrations,
    )
    if what.lacks_demonstrations:
        said = "without them others must give its prompt demonstrations.sources. --with-demonstrations takes them along"
        say(f"{artifact.id}: the rows of its training that its prompt shows stay here; {said}")
    about = f"{len(what.files):,} files, {size(what.size_bytes)}"
    if options.dry_run:
        sys.stdout.write(what.card.text)
        say(f"{artifact.id} would go to {options.target}: {about}: {', '.join(sorted(what.files))}")
        return
    if found is None:
        to_folder(what, Path(options.target).expanduser())
        say(f"{artifact.id} is in {options.target}: {about}")
    else:
        say(f"{artifact.id}: uploading {about} to {options.target}")
        say(f"{artifact.id} is at {to_hub(what, found[2] or 'main', is_private=options.private)}")
