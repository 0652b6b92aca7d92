"""`rayloom init NAME`: writes shipped job files: a starter of a kind of job, the quickstart, or a recipe."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from rayloom.commands.output import console, plain_table
from rayloom.commands.shipped import job_files, jobs_folder, templates
from rayloom.errors import InputError, nearest
from rayloom.kinds import SPECS
from rayloom.observe.progress import say
from rayloom.specs.base import references
from rayloom.specs.files.load import load
from rayloom.specs.files.reference import first_sentence

_FOLDER_OF_JOBS = re.compile(r"\bjobs/(?=(quickstart|recipes)/)")
"""Commands in the comments of shipped job files give paths from the root of a checkout."""
_NAME = re.compile(r"^name: (\S+)", re.MULTILINE)


def init(options: argparse.Namespace) -> None:
    """Writes job files to edit and run, or lists the starters and recipes."""
    if options.template is None or options.list:
        _list()
    elif options.template in templates():
        _write_starter(options.template, options.output)
    else:
        _write_recipe(options.template.strip("/").removesuffix(".yaml"), options.output or Path())


def _list() -> None:
    table = plain_table("name", "what it is")
    for name, content in templates().items():
        table.add_row(name, _first_sentence(content))
    for name, files in recipes(job_files()).items():
        table.add_row(name, _summary(files))
    console().print(table)


def _summary(files: Mapping[str, Path]) -> str:
    """First sentence of the comment in a recipe's main file, or the names of its files if it has no main file."""
    main = [file for file in files.values() if len(files) == 1 or file.stem in ("pipeline", "train")]
    if main:
        return _first_sentence(main[0].read_text(encoding="utf-8"))
    return f"{len(files)} job files: {', '.join(file.stem for file in files.values())}"


def _first_sentence(text: str) -> str:
    lines = takewhile(lambda line: line.startswith("#"), text.splitlines())
    return first_sentence(" ".join(line.lstrip("# ") for line in lines))


def _write_starter(name: str, output: Path | None) -> None:
    file = output or Path(f"{name}.yaml")
    _write({file: templates()[name]})
    say(f"{file}: edit it, then `rayloom check {file}` and `rayloom plan {file}`")


def _write_recipe(name: str, folder: Path) -> None:
    """Writes one recipe's files and those that make the artifacts it names, with the same paths as in `jobs/`."""
    shipped = job_files()
    known_recipes = recipes(shipped)
    if name not in known_recipes:
        known = [*templates(), *known_recipes]
        fix = f"`rayloom init --list` shows what there is{nearest(name, known) or '.'}"
        raise InputError(f"There is no starter or recipe {name!r}", fix=fix)
    wanted = _with_needed(known_recipes[name], shipped)
    scripts = _scripts_beside(known_recipes[name])
    shipped_texts = {folder / file: path.read_text(encoding="utf-8") for file, path in (wanted | scripts).items()}
    texts = {file: _FOLDER_OF_JOBS.sub(_prefix(folder), text) for file, text in shipped_texts.items()}
    _write({file: text for file, text in texts.items() if not _holds(file, text)})
    jobs = sorted(
        (folder / file for file in wanted), key=lambda file: file.stem.endswith("h100")
    )  # those for GPUs last
    pipelines = [file for file in jobs if file.stem == "pipeline"]
    say(f"{len(jobs)} job files in {folder / name.partition('/')[0]}. Run them in this order:")
    for file in pipelines or jobs:
        say(f"rayloom run {file}")


def _prefix(folder: Path) -> str:
    return "" if folder == Path() else f"{folder.as_posix()}/"


def recipes(shipped: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """Recipes by name: a folder of job files that belong together, or one file."""
    recipes: dict[str, dict[str, Path]] = {}
    for name, path in shipped.items():
        folder = name.rpartition("/")[0]
        recipe = name.removesuffix(".yaml") if folder == "recipes" else folder
        recipes.setdefault(recipe, {})[name] = path
    return recipes


def _scripts_beside(files: Mapping[str, Path]) -> dict[str, Path]:
    """Python files in the folders of these job files, which make their rows or are called by them."""
    folder = jobs_folder()
    folders = {path.parent for path in files.values()}
    return {file.relative_to(folder).as_posix(): file for one in sorted(folders) for file in sorted(one.glob("*.py"))}


def _with_needed(files: Mapping[str, Path], shipped: Mapping[str, Path]) -> dict[str, Path]:
    """The files and the shipped job files whose artifacts they need, directly or indirectly, in topological order."""
    makers: dict[str, str] = {}
    for name, path in shipped.items():
        named = _NAME.search(path.read_text(encoding="utf-8"))
        makers.setdefault(named[1] if named else "", name)
    ordered: dict[str, Path] = {}

    def add(name: str, waiting: frozenset[str]) -> None:
        job = load(shipped[name], SPECS)
        artifacts = [reference.text.removeprefix("artifact:") for reference in references(job.spec)]
        needed = [makers[artifact] for artifact in artifacts if artifact in makers]
        needed += [other for other, path in shipped.items() if path.resolve() in job.included]
        for other in needed:
            if other not in ordered and other not in waiting:
                add(other, waiting | {name})
        ordered.setdefault(name, shipped[name])

    for name in files:
        add(name, frozenset())
    return ordered


def _holds(file: Path, text: str) -> bool:
    """Whether the file exists with this text, such as an import that another recipe also needs."""
    return file.is_file() and file.read_text(encoding="utf-8", errors="replace") == text


def _write(texts: Mapping[Path, str]) -> None:
    """Writes new files. Raises InputError before writing anything if one exists already."""
    for file in texts:
        if file.exists():
            fix = "Remove it, or name another place with --output."
            raise InputError("This file is there already", where=str(file), fix=fix)
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
