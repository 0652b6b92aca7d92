"""The prompts of a job: the shipped files in templates/, or a person's own of the same names (Jinja templates)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rayloom.errors import InputError
from rayloom.specs.files.problems import nearest

SHIPPED = Path(__file__).parent / "templates"


class Prompts:
    """Renders prompts. Raises InputError if a file of the person's own is none that is used, or is no template."""

    def __init__(self, own: Path | None) -> None:
        from jinja2 import ChoiceLoader, FileSystemLoader, StrictUndefined, TemplateSyntaxError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        folders = [SHIPPED] if own is None else [own, SHIPPED]
        self._environment = ImmutableSandboxedEnvironment(
            loader=ChoiceLoader([FileSystemLoader(folder) for folder in folders]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=False,
        )
        known = sorted(file.stem for file in SHIPPED.glob("*.jinja"))
        if own is not None and not own.is_dir():
            raise InputError("There is no such folder", where=f"prompts: {own}", fix="It begins at the job file's.")
        for file in sorted(own.glob("*")) if own is not None else ():
            if file.stem not in known or file.suffix != ".jinja":
                fix = f"There are {', '.join(known)}{nearest(file.stem, known) or '.'}"
                raise InputError("No prompt has this name", where=str(file), fix=fix)
            try:
                self._environment.get_template(file.name)
            except TemplateSyntaxError as error:
                fix = "See https://jinja.palletsprojects.com for the form."
                raise InputError(f"Line {error.lineno}: {error.message}", where=str(file), fix=fix) from None

    def text(self, name: str, **values: Any) -> str:
        """The prompt with the values filled in. Raises InputError if it uses one that there is not."""
        from jinja2 import TemplateError

        template = self._environment.get_template(f"{name}.jinja")
        try:
            return template.render(values)
        except TemplateError as error:
            fix = f"It can use {', '.join(values)}."
            raise InputError(str(error.message), where=str(template.filename), fix=fix) from None

    def save(self, names: Iterable[str], folder: Path) -> None:
        """Writes the files of these prompts."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            file = Path(str(self._environment.get_template(f"{name}.jinja").filename))
            (folder / file.name).write_bytes(file.read_bytes())
