"""Resolution of a path in a job file through the spec classes, to the model and field that it names."""

from __future__ import annotations

from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rayloom.specs.files.document import Path

_KEY = "[key]"
"""What pydantic adds to the location of a wrong key of a mapping."""


@dataclass(frozen=True)
class Spot:
    """The place in the file that the location of a pydantic error means."""

    path: Path
    """The path in the file, without the tags and branches that pydantic adds for unions."""
    owner: type[BaseModel] | None
    """The model that has, or lacks, the last key of the path."""
    field: FieldInfo | None
    """The field that the last key names."""
    annotation: Any
    """The type of what the path names."""
    union_path: Path | None = None
    """Path of a union without a discriminator on the way: pydantic reports errors of each of its branches."""


def locate(location: tuple[str | int, ...], root: type[BaseModel]) -> Spot:
    """The place of an error's location, resolved through the spec classes from `root` on."""
    spot = before = Spot((), None, None, root)
    for part in location:
        if part == _KEY and get_origin(bare(before.annotation)) is dict:
            spot = Spot(spot.path, None, None, get_args(bare(before.annotation))[0], spot.union_path)
        else:
            before, spot = spot, _step(spot, part)
    return spot


def _step(spot: Spot, part: str | int) -> Spot:
    annotation, models = bare(spot.annotation), models_of(spot.annotation)
    if is_model(annotation):
        for name, info in annotation.model_fields.items():
            if part in (name, info.alias):
                return Spot((*spot.path, part), annotation, info, info.annotation, spot.union_path)
        return Spot((*spot.path, part), annotation, None, None, spot.union_path)
    if get_origin(annotation) in (Union, UnionType):
        chosen = [model for model in models if part in tags_of(model)]
        if chosen:
            return Spot(spot.path, spot.owner, spot.field, chosen[0], spot.union_path)
        branches = [inner for inner in get_args(annotation) if _label(inner) == str(part).partition("[")[0]]
        branch = branches[0] if branches else None
        return Spot(spot.path, spot.owner, spot.field, branch, spot.path)
    inner = get_args(annotation)
    if get_origin(annotation) is dict:
        return Spot((*spot.path, part), None, None, inner[1], spot.union_path)
    return Spot((*spot.path, part), spot.owner, spot.field, inner[0] if inner else None, spot.union_path)


def _label(annotation: Any) -> str:
    """The name by which pydantic reports a branch of a union, up to its first bracket."""
    origin = get_origin(bare(annotation)) or bare(annotation)
    return "literal" if origin is Literal else str(getattr(origin, "__name__", origin))


def bare(annotation: Any) -> Any:
    """The annotation without `Annotated` around it and without `| None`."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        rest = [inner for inner in get_args(annotation) if inner is not type(None)]
        if len(rest) == 1:
            return bare(rest[0])
        if len(rest) < len(get_args(annotation)):
            return Union[tuple(rest)]  # noqa: UP007 (built from values)
    return annotation


def is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """The models in an annotation, also inside unions, tuples and `Annotated`."""
    annotation = bare(annotation)
    if is_model(annotation):
        return [annotation]
    return [model for inner in get_args(annotation) for model in models_of(inner)]


def tags_of(model: type[BaseModel]) -> tuple[Any, ...]:
    """The values of its required literal fields, which identify it in a union."""
    fields = [info for info in model.model_fields.values() if info.is_required()]
    return tuple(v for info in fields if get_origin(info.annotation) is Literal for v in get_args(info.annotation))


def variant_of(annotation: Any, value: Any) -> type[BaseModel] | None:
    """The model that a mapping in the file is meant to be; None if that is not clear."""
    models = models_of(annotation)
    if not isinstance(value, dict) or not models:
        return None
    if len(models) == 1:
        return models[0]
    chosen = [model for model in models if value.get("type") in tags_of(model)]
    return chosen[0] if len(chosen) == 1 else None


def key_of(name: str, info: FieldInfo) -> str:
    """The field's key in a job file."""
    return info.alias or name


def keys_of(model: type[BaseModel]) -> list[str]:
    return [key_of(name, info) for name, info in model.model_fields.items()]
