"""The prompts of a job: the shipped files in templates/, or a person's own of the same names (Jinja templates)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayloom.errors import InputError, nearest

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment

SHIPPED = Path(__file__).parent / "templates"


class Prompts:
    """Renders prompts. Raises InputError if a file of the person's own is none that is used, or is no template."""

    def __init__(self, own: Path | None) -> None:
        self._environment = _environment([SHIPPED] if own is None else [own, SHIPPED])
        known = sorted(file.stem for file in SHIPPED.glob("*.jinja"))
        if own is not None and not own.is_dir():
            raise InputError("There is no such folder", where=f"prompts: {own}", fix="It begins at the job file's.")
        for file in sorted(own.glob("*")) if own is not None else ():
            if file.stem not in known or file.suffix != ".jinja":
                fix = f"There are {', '.join(known)}{nearest(file.stem, known) or '.'}"
                raise InputError("No prompt has this name", where=str(file), fix=fix)
            _parsed(self._environment, file)

    def text(self, name: str, **values: Any) -> str:
        """The prompt with the values filled in. Raises InputError if it uses one that there is not."""
        return _filled(self._environment.get_template(f"{name}.jinja"), values)

    def save(self, names: Iterable[str], folder: Path) -> None:
        """Writes the files of these prompts."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            file = Path(str(self._environment.get_template(f"{name}.jinja").filename))
            (folder / file.name).write_bytes(file.read_bytes())


class Rubric:
    """What a judge is asked: a person's own file, or a shipped one. Raises InputError if it shows no answers."""

    def __init__(self, own: Path | None, shipped: str, shows: Iterable[str]) -> None:
        from jinja2.meta import find_undeclared_variables

        self.file = own or SHIPPED / f"{shipped}.jinja"
        if not self.file.is_file():
            raise InputError("There is no such file", where=f"rubric: {own}", fix="It begins at the job file's folder.")
        environment = _environment([self.file.parent])
        self._template = _parsed(environment, self.file)
        source = environment.parse(self.file.read_text(encoding="utf-8"))
        missing = sorted(set(shows) - find_undeclared_variables(source))
        if missing:
            fix = "Write " + " and ".join(f"{{{{ {name} }}}}" for name in missing) + " into it."
            raise InputError("The rubric does not show the judge everything", where=str(self.file), fix=fix)

    def text(self, **values: Any) -> str:
        """The request to the judge. Raises InputError if the rubric uses a value that there is not."""
        return _filled(self._template, values)


def _environment(folders: Sequence[Path]) -> ImmutableSandboxedEnvironment:
    from jinja2 import ChoiceLoader, FileSystemLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(
        loader=ChoiceLoader([FileSystemLoader(folder) for folder in folders]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )


def _parsed(environment: ImmutableSandboxedEnvironment, file: Path) -> Template:
    from jinja2 import TemplateSyntaxError

    try:
        return environment.get_template(file.name)
    except TemplateSyntaxError as error:
        fix = "See https://jinja.palletsprojects.com for the form."
        raise InputError(f"Line {error.lineno}: {error.message}", where=str(file), fix=fix) from None


def _filled(template: Template, values: Mapping[str, Any]) -> str:
    from jinja2 import TemplateError

    try:
        return template.render(values)
    except TemplateError as error:
        fix = f"It can use {', '.join(values)}."
        raise InputError(str(error.message), where=str(template.filename), fix=fix) from None
