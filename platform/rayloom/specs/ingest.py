"""`kind: import`: copies a model or data set into the store, with digest, licence and lineage."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from rayloom.errors import InputError
from rayloom.specs.base import ArtifactReference, JobSpec, ModelRef, OutsideFiles, Rule, Spec

Sha256 = Annotated[
    str, StringConstraints(pattern=r"^[0-9a-f]{64}$"), Rule("must be a SHA-256: 64 digits of 0-9 and a-f")
]
# Both are written to a requirements file for pip, so they must not contain other syntax of such files.
PackageName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"),
    Rule("must be a package's name: letters, digits, `.`, `_` and `-`"),
]
PackageVersion = Annotated[
    str, StringConstraints(pattern=r"^[0-9][A-Za-z0-9.!+_-]*$"), Rule("must be one exact version, such as 1.2.0")
]


UNKNOWN_LICENCE = "unknown"


class PackageSource(Spec):
    """Files inside a package of the configured Python package index, pinned by version and digest."""

    type: Literal["package"]
    package: PackageName
    """Name of the package in the Python package index."""
    version: PackageVersion
    """The exact version."""
    archive: Literal["wheel", "sdist"] = "wheel"
    """Which of the version's archives: the wheel, or the source distribution."""
    sha256: Sha256
    """Digest of the downloaded archive."""
    members: tuple[str, ...] = ("**",)
    """Glob patterns of the files to take out of the archive; a member that is itself a .zip is unpacked."""


class NpmSource(Spec):
    """Files inside a package of the configured npm registry, pinned by version and digest; npm must be installed."""

    type: Literal["npm"]
    package: Annotated[
        str,
        StringConstraints(pattern=r"^(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*$"),
        Rule("must be a package's name as npm shows it: NAME or @SCOPE/NAME"),
    ]
    """Name of the package in the npm registry."""
    version: PackageVersion
    """The exact version."""
    sha256: Sha256
    """Digest of the .tgz that `npm pack` makes."""
    members: tuple[str, ...] = ("**",)
    """Glob patterns of the files to take out of the archive."""


class HubSource(Spec):
    """A repository of the Hugging Face hub (or of the mirror that `HF_ENDPOINT` names)."""

    type: Literal["hub"]
    repository: Annotated[
        str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$"), Rule("must be ORGANISATION/MODEL, as the hub shows it")
    ]
    """The repository, as ORGANISATION/MODEL."""
    revision: str = "main"
    """Branch, tag or commit. What it resolved to stands in the manifest."""
    subset: str | None = None
    """Of a data set: one of the subsets (configurations) that its card names. Default: the card's own default, or
    the only one."""
    split: str | None = None
    """Of a data set: `train`, `test` or another split that it has. Default: `train`, or the only one."""
    patterns: tuple[str, ...] | None = None
    """Glob patterns of the files to take. Default: of a model or adapter, its weights, configuration, tokenizer, card
    and licence; of a data set, the files of its subset and split. Pickled weights (.bin, .pt) are never read."""


class FolderSource(Spec):
    """A folder or file on a disk of this machine."""

    type: Literal["folder"]
    path: str
    """Relative paths start at the job file."""


Source = Annotated[PackageSource | NpmSource | HubSource | FolderSource, Field(discriminator="type")]


class ModelContent(Spec):
    """The files are one model."""

    type: Literal["model"]
    format: Literal["transformers", "gguf"] = "transformers"
    """gguf is converted: weights dequantised to 16-bit safetensors, tokenizer and chat template taken along."""


class AdapterContent(Spec):
    """The files are one adapter of PEFT, made elsewhere."""

    type: Literal["adapter"]
    base: ModelRef
    """The model that it was trained on. Its weights must have the shapes that the adapter's need."""


class DatasetContent(Spec):
    """The files are a data set; they are kept as they are."""

    type: Literal["dataset"]


class ImportSpec(JobSpec):
    """Copies one model or data set into the store."""

    kind: Literal["import"]
    source: Source
    """Where the files come from."""
    content: Annotated[ModelContent | AdapterContent | DatasetContent, Field(discriminator="type")]
    """What the files are: a model, an adapter, or a data set."""
    licence: str
    """SPDX identifier or name of the licence; carried along the lineage. `unknown` of a repository of the hub: the one
    that its card names."""

    @model_validator(mode="after")
    def _one_choice_of_files(self) -> Self:
        source = self.source
        if not isinstance(source, HubSource) or (source.subset is None and source.split is None):
            return self
        if not isinstance(self.content, DatasetContent):
            raise ValueError("source.subset and source.split are for content.type dataset")
        if source.patterns is not None:
            raise ValueError("give either source.patterns, or source.subset and source.split")
        return self

    def outside_files(self) -> Iterator[OutsideFiles]:
        if isinstance(self.source, FolderSource):
            yield OutsideFiles("source.path", self.source.path)


def import_of(reference: ArtifactReference, directory: Path, base: str | None = None) -> ImportSpec:
    """The import job for a reference to the hub or to a path. Raises InputError if there is no such path.

    The name of its artifact begins with `hub.` or `folder.`, so that it cannot collide with one named in a job file.
    `directory`: the folder from which a relative path starts. `base`: of an adapter, the reference of its base.
    """
    content: dict[str, str] = {"type": "dataset" if "dataset" in reference.contents else "model"}
    if base is not None:
        content = {"type": "adapter", "base": base}
    return ImportSpec.model_validate(
        {
            "kind": "import",
            "name": implicit_name(reference, directory),
            "source": source_of(reference, directory),
            "content": content,
            "licence": UNKNOWN_LICENCE,
        }
    )


def source_of(reference: ArtifactReference, directory: Path) -> HubSource | FolderSource:
    """The source of a reference to the hub or to a path. Raises InputError if there is no such path."""
    if reference.text.startswith("hf://"):
        repository, _, revision = reference.text.removeprefix("hf://").partition("@")
        part = {"subset": reference.subset, "split": reference.split}
        return HubSource(type="hub", repository=repository, revision=revision or "main", **part)
    path = (directory / Path(reference.text).expanduser()).resolve()
    if not path.exists():
        raise InputError(f"{reference.path} names a path that does not exist", where=str(path), fix="Correct it.")
    return FolderSource(type="folder", path=str(path))


def implicit_name(reference: ArtifactReference, directory: Path) -> str:
    source = source_of(reference, directory)
    name = f"hub.{source.repository}" if isinstance(source, HubSource) else f"folder.{Path(source.path).name}"
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower())[:63]
