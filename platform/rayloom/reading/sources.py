"""The files of a job's source: of a data set in the store, or where they lie."""

from __future__ import annotations

from rayloom.artifacts.files import matching_files
from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.reading.files import RowFile
from rayloom.reading.files_in_place import FileInPlace, files_in_place
from rayloom.reading.hub_datasets import ClassNames
from rayloom.specs.row_files import RowFiles, SourceOfRows


def row_files(source: RowFiles, dataset: Artifact | None) -> list[RowFile]:
    """The files of a source, sorted by name. `dataset`: the artifact that it names, if it names one.

    Raises InputError if no file fits the source's pattern.
    """
    if isinstance(source, SourceOfRows) and source.uri is not None:
        return [*files_in_place(source.uri, source.files, source.subset, source.split)]
    if dataset is None:
        raise InputError("The source's data set is not in the store", fix="Run the job that makes it.")
    paths, names = matching_files(dataset.path, source.files), class_names(dataset)
    if not names:
        return [*paths]
    return [FileInPlace(str(path), path.name, path.stat().st_size, "", names) for path in paths]


def class_names(dataset: Artifact) -> ClassNames:
    """The names of the classes of a data set that was imported from the hub."""
    found: ClassNames = dataset.manifest.metrics.get("class_names", {})
    return found
