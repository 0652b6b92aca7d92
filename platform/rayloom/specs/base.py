"""The base of all specs: strict fields, references to artifacts, fingerprints, and the descriptions of fields.

A spec holds exactly what a job file says. Validators check values and never change them; values derived from several
fields are properties. Only Pydantic and YAML are imported: `rayloom check` must take well under half a second.

Modules with specs do without `from __future__ import annotations`. It makes each annotation a text, and Pydantic would
compile and evaluate all of them at every start: a tenth of the time of `rayloom check`.
"""

import ast
import functools
import inspect
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetJsonSchemaHandler, StringConstraints
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

Content = Literal["model", "adapter", "corpus", "dataset", "report"]
"""The content of an artifact, whichever kind of job made it."""


@dataclass(frozen=True)
class Rule:
    """The meaning of a field's pattern, in words."""

    text: str

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema with the rule in words beside its pattern."""
        return handler(core) | {"rule": self.text.removeprefix("must be ")}


Name = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$"),
    Rule("must be lower-case letters, digits, `.`, `_` or `-`, beginning with a letter or digit, at most 63 of them"),
]
"""A name for an artifact or stage: lower case, digits, `.`, `_`, `-`; at most 63 characters."""


class Spec(BaseModel):
    """A typed part of a job file. Unknown keys are errors; a spec is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, defer_build=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema with the string literal after each field as its description."""
        schema = handler(core)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in field_docs(cls).items():
            if name in cls.model_fields:
                properties[cls.model_fields[name].alias or name].setdefault("description", text)
        return schema


def refuse_repeated(names: Iterable[str], things: str) -> None:
    """Raises ValueError if a name occurs twice. `things`: what the names are of, in the plural."""
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise ValueError(f"two {things} have the name {', '.join(repeated)}")


@dataclass(frozen=True)
class Bundle:
    """The resources of one worker or replica on one node."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class OutsideFiles:
    """Files that a job reads and that are not in an artifact."""

    path: str
    """Dotted path of the field that names them."""
    location: str
    """A path, which begins at the job file's folder, or a URI."""
    pattern: str = "**"
    subset: str | None = None
    split: str | None = None


class JobSpec(Spec):
    """The fields of every kind of job file: the kind, and the name of the artifact that it makes."""

    kind: str
    """What kind of job the file describes; it decides which other keys there are."""
    name: Name
    """The artifact's name in the store."""
    description: Annotated[str, "unfingerprinted"] = ""
    """A note for people; changing it does not make a new result."""

    def bundles(self) -> list[Bundle]:
        """A bundle for each worker or replica that must run at the same time; empty if any node can run the job."""
        return []

    def most_bundles(self) -> list[Bundle]:
        """The bundles of all workers or replicas that can run at the same time."""
        return self.bundles()

    @property
    def takes_all_cpus(self) -> bool:
        """Whether the job uses as many CPUs as there are, those that an autoscaler adds included."""
        return False

    def outside_files(self) -> Iterator[OutsideFiles]:
        """The files that the job reads outside artifacts. If they change, the job makes a new result."""
        yield from ()

    def further_problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Path and text of problems between models; called only if every field and model is valid by itself."""
        yield from ()


@dataclass(frozen=True)
class JobFile:
    """Marks a field that holds another job: its keys written out, or the path of its job file.

    The loader replaces the path by the file's content before validation, so a spec always contains the job itself.
    """

    overrides: str
    """The field beside it whose `path.to.field=value` lines are applied to that job."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema of the job, or of a path, for editors."""
        return {"anyOf": [{"type": "string", "description": "path of a job file"}, handler(core)]}


@dataclass(frozen=True)
class RefersTo:
    """Marks a field that refers to another artifact, with the allowed contents of that artifact."""

    contents: tuple[Content, ...]
    has_parts: bool = False
    """Whether fields `subset` and `split` beside it say which part of a data set of the hub is meant."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema with the allowed contents, for readers and editors."""
        return handler(core) | {"refersTo": list(self.contents)}


def _check_reference(text: str) -> str:
    if text.startswith("artifact:"):
        if not re.fullmatch(r"artifact:[a-z0-9][a-z0-9._-]{0,62}(@[0-9a-f]{6,64})?", text):
            raise ValueError("must be artifact:NAME or artifact:NAME@VERSION, as `rayloom artifacts list` shows them")
    elif text.startswith("hf://datasets/"):
        raise ValueError("must be hf://ORGANISATION/NAME: `datasets/` is written in a `uri` only")
    elif text.startswith("hf://"):
        if not re.fullmatch(r"hf://[\w.-]+/[\w.-]+(@[\w./-]+)?", text):
            raise ValueError("must be hf://ORGANISATION/MODEL or hf://ORGANISATION/MODEL@REVISION")
    elif not text.startswith(("/", "./", "../", "~")):
        raise ValueError("must be artifact:NAME, hf://ORGANISATION/MODEL, or a path that begins with ./, ../ or /")
    return text


_Reference = Annotated[str, AfterValidator(_check_reference)]
ModelRef = Annotated[_Reference, RefersTo(("model",))]
"""A model: `artifact:NAME[@VERSION]`, `hf://ORGANISATION/MODEL[@REVISION]`, or a folder's path."""
TunedRef = Annotated[_Reference, RefersTo(("model", "adapter"))]
"""A model, or an adapter with the base that is named in its lineage."""
AdapterRef = Annotated[_Reference, RefersTo(("adapter",))]
SearchRef = Annotated[_Reference, RefersTo(("model", "adapter", "report"))]
"""The result of a search: its best model or adapter, or of a search for speed its records."""
CorpusRef = Annotated[_Reference, RefersTo(("corpus",))]
MeasuredRowsRef = Annotated[_Reference, RefersTo(("model", "adapter", "corpus", "dataset"))]
"""The result of a training job, which contains its held-out rows; a corpus; or a data set of texts or conversations,
also `hf://ORGANISATION/NAME` and the path of a folder or text file."""
DatasetRef = Annotated[_Reference, RefersTo(("dataset",))]
RowsRef = Annotated[_Reference, RefersTo(("dataset",), has_parts=True)]
"""A data set whose rows are read; of one of the hub, the subset and split that stand beside it."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share of a whole, from 0 to 1."""


@dataclass(frozen=True)
class ArtifactReference:
    """One field of a spec that refers to another artifact."""

    path: str
    """Dotted path of the field: `data.sources.0.from`."""
    text: str
    contents: tuple[Content, ...]
    subset: str | None = None
    split: str | None = None


def references(spec: Spec, prefix: str = "") -> Iterator[ArtifactReference]:
    """All references in the spec, in the order of the fields."""
    for name, field in type(spec).model_fields.items():
        path = f"{prefix}{field.alias or name}"
        marks = [m for m in _metadata(field.annotation, field.metadata) if isinstance(m, RefersTo)]
        for found in _references_in(getattr(spec, name), path, marks[0] if marks else None):
            parts = ("subset", "split") if marks and marks[0].has_parts else ()
            yield replace(found, **{part: getattr(spec, part) for part in parts})


def _references_in(value: Any, path: str, mark: RefersTo | None) -> Iterator[ArtifactReference]:
    if isinstance(value, Spec):
        yield from references(value, f"{path}.")
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from _references_in(item, f"{path}.{index}", mark)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _references_in(item, f"{path}.{key}", mark)
    elif isinstance(value, str) and mark is not None:
        yield ArtifactReference(path, value, mark.contents)


def _metadata(annotation: Any, known: list[Any]) -> list[Any]:
    """A field's annotation metadata, including that inside `X | None` or `tuple[X, ...]`."""
    marks = [*known, *getattr(annotation, "__metadata__", ())]
    for inner in get_args(annotation):
        marks += _metadata(inner, [])
    return marks


def rule_of(field: FieldInfo) -> str | None:
    """The meaning of the field's pattern in words; None if it has no Rule."""
    rules = [mark.text for mark in _metadata(field.annotation, field.metadata) if isinstance(mark, Rule)]
    return rules[0] if rules else None


def fingerprinted(spec: Spec, *, with_defaults: bool = False) -> dict[str, Any]:
    """The spec as plain values, without fields that cannot change the result (marked "unfingerprinted").

    Fields at their defaults are left out too, so that a field added later does not change fingerprints. If a default
    changes, the kind therefore needs a new version. `with_defaults` keeps these fields, for display.
    """
    plain: dict[str, Any] = {}
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if "unfingerprinted" in _metadata(field.annotation, field.metadata):
            continue
        if with_defaults or is_variant_name(field) or field.is_required() or value != default_of(field):
            plain[field.alias or name] = _plain(value, with_defaults)
    return plain


def is_variant_name(field: FieldInfo) -> bool:
    """Whether the field names the variant of a union, such as `type: Literal["lora"]`."""
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


def default_of(field: FieldInfo) -> Any:
    """The value of the field if a job file leaves it out."""
    return field.get_default(call_default_factory=True, validated_data={})


def _plain(value: Any, with_defaults: bool) -> Any:
    if isinstance(value, Spec):
        return fingerprinted(value, with_defaults=with_defaults)
    if isinstance(value, (tuple, list)):
        return [_plain(item, with_defaults) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item, with_defaults) for key, item in value.items()}
    return value


# Descriptions of fields: the string literals after them, parsed from the source when a schema is made.
#
# Pydantic's own option (`use_attribute_docstrings`) parses the source of every class at import, which takes as long as
# everything else in `rayloom check`.


def field_docs(model: type) -> dict[str, str]:
    """The description of each field by name, including fields of base classes."""
    docs: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if cls.__module__.split(".")[0] not in ("builtins", "pydantic"):
            docs |= _by_class(cls.__module__).get(cls.__name__, {})
    return docs


@functools.cache
def _by_class(module: str) -> dict[str, dict[str, str]]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: _docs(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _docs(node: ast.ClassDef) -> dict[str, str]:
    docs = {}
    for field, below in zip(node.body, node.body[1:], strict=False):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            docs[field.target.id] = inspect.cleandoc(str(below.value.value))  # type: ignore[attr-defined]
    return docs
