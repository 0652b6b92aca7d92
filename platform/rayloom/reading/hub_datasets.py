"""Data sets of the hub: the files of a subset and split, and the names of their classes, as their card says.

The card (the YAML head of README.md) is read by Hugging Face's `datasets`, so that a subset, a split and the splits of
a repository without a card are what they are for everyone else. No rows are loaded with it.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rayloom.errors import InputError
from rayloom.reading.hub import commit_of, hub_api, hub_errors

ClassNames = Mapping[str, tuple[str, ...]]
"""Names of the classes of a column whose values are their numbers, or lists of them."""
_MAX_NAMED = 40
_REMOTE = "hf://datasets/"
"""Without it, `datasets` would take a folder of the same name on this machine."""
_PINNED = re.compile(r"hf://datasets/([^/]+/[^/@]+)@([0-9a-f]{40})/(.+)")
PARQUET_COPY = "refs/convert/parquet"
"""The revision at which the hub keeps a Parquet copy of most data sets."""


@dataclass(frozen=True)
class HubRows:
    """The files of one split."""

    repository: str
    commit: str
    subset: str
    split: str
    paths: tuple[str, ...]
    """Inside the repository, sorted."""
    class_names: ClassNames = field(default_factory=dict)
    licence: str | None = None
    """As the card names it."""

    def uri(self, path: str) -> str:
        return f"hf://datasets/{self.repository}@{self.commit}/{path}"


def rows_on_hub(repository: str, revision: str, subset: str | None, split: str | None) -> HubRows:
    """The files of a subset's split. Raises InputError, with the names there are, where one must be named or is not
    there, and where the repository has no files of rows."""
    commit = commit_of(repository, revision, "dataset")
    where = f"{repository}@{revision}"
    with hub_errors(where):
        return _rows_on_hub(repository, commit, subset, split, where, os.environ.get("HF_ENDPOINT"))


@functools.lru_cache(maxsize=64)
def _rows_on_hub(
    repository: str, commit: str, subset: str | None, split: str | None, where: str, _endpoint: str | None
) -> HubRows:
    hub_api().auth_check(repository, repo_type="dataset")
    module = _module(repository, commit, where)
    configs = {str(config.name): config for config in module.builder_configs_parameters.builder_configs}
    subset = _one_of(subset, list(configs), "subset", where, module.builder_configs_parameters.default_config_name)
    splits = _splits(configs[subset], module, where)
    split = _one_of(split, list(splits), "split", f"{where} ({subset})" if len(configs) > 1 else where, "train")
    paths = tuple(sorted(_inside(file, repository, commit, where) for file in splits[split]))
    info = module.dataset_infos.get(subset)
    features = (info.features if info is not None else None) or _features_in(repository, commit, paths[0])
    return HubRows(repository, commit, subset, split, paths, class_names_of(features), _licence(repository, commit))


def _splits(config: Any, module: Any, where: str) -> dict[str, list[str]]:
    """The addresses of a subset's files by split. Raises InputError if the card names files that are not there."""
    from datasets import DownloadConfig
    from datasets.data_files import DataFilesPatternsDict

    patterns = config.data_files
    if isinstance(patterns, DataFilesPatternsDict):
        try:
            patterns = patterns.resolve(module.builder_kwargs["base_path"], DownloadConfig())
        except FileNotFoundError as error:
            raise _no_files(error, where) from error
    return {str(split): [str(file) for file in files] for split, files in patterns.items()}


def _one_of(asked: str | None, known: list[str], what: str, where: str, usual: str | None) -> str:
    names = ", ".join(known[:_MAX_NAMED]) + (f" and {len(known) - _MAX_NAMED} more" if len(known) > _MAX_NAMED else "")
    if asked is not None:
        if asked not in known:
            raise InputError(f"The data set has no {what} {asked!r}", where=where, fix=f"It has: {names}.")
        return asked
    if usual in known:
        return str(usual)
    if len(known) != 1:
        message = f"The data set has {len(known)} {what}s, and the job names none"
        raise InputError(message, where=where, fix=f"Write `{what}:` beside it, one of: {names}.")
    return known[0]


def _module(repository: str, commit: str, where: str) -> Any:
    """What `datasets` knows of the repository. Raises InputError where it has no files of rows."""
    from datasets.load import dataset_module_factory

    try:
        return dataset_module_factory(_REMOTE + repository, revision=commit)
    except FileNotFoundError as error:
        raise _no_files(error, where) from error
    except RuntimeError as error:
        if "scripts" not in str(error):
            raise
        what = "This data set is a loading script (Python), which Rayloom does not run"
        fix = f"The hub often keeps a copy in Parquet: write hf://{repository}@{PARQUET_COPY}."
        raise InputError(what, where=where, fix=fix) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _bad_card(error, where) from error


def _no_files(error: FileNotFoundError, where: str) -> InputError:
    named = re.search(r"Unable to find '(?:hf://datasets/[^'@]*@\w{40}/)?([^']*)'", str(error))
    if named is not None:
        fix = "Name the files that you need with source.patterns of an import job."
        return InputError(f"The data set's card names files that it does not have: {named[1]}", where=where, fix=fix)
    fix = "Name other files with source.patterns of an import job, if they are rows."
    return InputError("The repository has no files of rows", where=where, fix=fix)


def _bad_card(error: Exception, where: str) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    fix = "Import the files that you need by source.patterns, without the card."
    return InputError(f"The data set's card cannot be used: {reason}", where=where, fix=fix)


def _inside(file: str, repository: str, commit: str, where: str) -> str:
    """The path inside the repository. A card can name any address; files elsewhere are not taken."""
    match = _PINNED.fullmatch(file.rpartition("::")[2])
    if match is None or (match[1], match[2]) != (repository, commit):
        what = f"The card names a file outside the repository: {file}"
        raise InputError(what, where=where, fix="Name that file by a `uri` of its own, if you trust it.")
    return match[3]


def _licence(repository: str, commit: str) -> str | None:
    """The licence that the card names."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.repocard import metadata_load

    try:
        endpoint = os.environ.get("HF_ENDPOINT")
        card = hf_hub_download(repository, "README.md", repo_type="dataset", revision=commit, endpoint=endpoint)
    except EntryNotFoundError:
        return None
    return licence_of(metadata_load(card) or {})


def licence_of(card: Mapping[str, Any]) -> str | None:
    """The licence in a card's head; several are joined."""
    named = card.get("license")
    names = [str(name) for name in (named if isinstance(named, list) else [named]) if name]
    if names == ["other"] and card.get("license_name"):
        names = [str(card["license_name"])]
    return " AND ".join(names) or None


def _features_in(repository: str, commit: str, path: str) -> Mapping[str, Any]:
    """The features that a Parquet file written by `datasets` names itself; none of other files."""
    if not path.endswith(".parquet"):
        return {}
    import pyarrow.parquet as pq
    from datasets import Features
    from huggingface_hub import HfFileSystem

    with HfFileSystem().open(f"datasets/{repository}@{commit}/{path}") as file:
        schema = pq.read_schema(file)
    found: Mapping[str, Any] = Features.from_arrow_schema(schema) if b"huggingface" in (schema.metadata or {}) else {}
    return found


def class_names_of(features: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The names of classes by column, where a column is a ClassLabel of `datasets`, or a list of them."""
    names_by_column = {}
    for column, feature in features.items():
        inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else feature)
        names = getattr(inner, "names", None)
        if names:
            names_by_column[column] = tuple(str(name) for name in names)
    return names_by_column


def hub_uri_parts(uri: str) -> tuple[str, str, str]:
    """Repository, revision and path of `hf://datasets/ORGANISATION/NAME[@REVISION][/PATH]`.

    Raises InputError for another form.
    """
    match = re.fullmatch(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@(refs/(?:convert|pr)/[\w.-]+|[^/]+))?(?:/(.*))?", uri)
    if match is None:
        fix = "Write hf://datasets/ORGANISATION/NAME, with @REVISION and /PATH behind it if needed."
        raise InputError("This is no address of a data set of the hub", where=uri, fix=fix)
    return match[1], (match[2] or "main").replace("%2F", "/"), (match[3] or "").strip("/")
