"""The files of rows that a job names, how they are read, and the glob patterns that select them."""

import codecs
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from rayloom.specs.base import OutsideFiles, RowsRef, Rule, Spec


def _check_encoding(name: str) -> str:
    try:
        codecs.getincrementaldecoder(name)(errors="strict").decode(b"")
        "".encode(name)
    except (LookupError, TypeError, AttributeError):
        raise ValueError("is no encoding of text that Python knows; common ones are gb18030, big5, latin-1") from None
    return name


Encoding = Annotated[str, AfterValidator(_check_encoding)]
"""A text encoding by its name in Python, such as gb18030, shift_jis, latin-1 or utf-16."""


class RowFiles(Spec):
    """Which files of a source are read, with their format and encoding."""

    files: str = "**"
    """Glob pattern of the files to read."""
    encoding: Encoding | None = None
    """Of text that is not UTF-8: `gb18030`, `latin-1`, … A byte order mark in a file counts more."""
    damaged_files: tuple[str, ...] = ()
    """Names (glob patterns) of files that may be damaged: what can be read of them is taken. Any other damaged file
    stops the job."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Columns under other names: `{prompt: question}` reads the column `question` as `prompt`. A dot reaches into an
    object: `{source: translation.en}`."""
    subset: str | None = None
    """Of a data set of the hub: one of the subsets (configurations) that its card names. Default: the card's own
    default, or the only one."""
    split: str | None = None
    """Of a data set of the hub: `train`, `test` or another split that it has. Default: `train`, or the only one."""

    def check_part(self, location: str | None) -> None:
        """Raises ValueError if a subset or split is named of files that are not a whole data set of the hub."""
        named = [name for name in ("subset", "split") if getattr(self, name) is not None]
        if named and not (location or "").startswith("hf://"):
            raise ValueError(
                f"{named[0]} is for data sets of the hub (hf://ORGANISATION/NAME); choose with `files` here"
            )


Uri = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9+]+://"), Rule("must be a URI such as s3://bucket/folder or https://…")
]


class SourceOfRows(RowFiles):
    """Files of a data set, or files at a URI."""

    dataset: RowsRef | None = Field(default=None, json_schema_extra={"givenUnless": "uri"})
    """The data set, or a folder's path, which is imported first."""
    uri: Uri | None = None
    """Instead of `dataset`: a file or folder on any file system that fsspec knows, read without a copy in the store;
    `hf://datasets/ORGANISATION/NAME@REVISION` is a data set of the hub."""
    licence: str | None = None
    """Licence of the files at `uri`; a data set has its own."""

    @property
    def location(self) -> str:
        """The reference or URI that names the files."""
        return str(self.dataset or self.uri)

    @model_validator(mode="after")
    def _one_location(self) -> Self:
        if (self.dataset is None) == (self.uri is None):
            raise ValueError("needs either a dataset or a uri")
        if self.dataset is not None and self.licence is not None:
            raise ValueError("a data set has its own licence; give one only with uri")
        self.check_part(self.location)
        return self


def files_at_uris(field: str, sources: Sequence[SourceOfRows]) -> Iterator[OutsideFiles]:
    """The files that these sources read outside artifacts; `field`: dotted path of the list of sources."""
    for number, source in enumerate(sources):
        if source.uri is not None:
            yield OutsideFiles(f"{field}.{number}.uri", source.uri, source.files, source.subset, source.split)


# Glob patterns of job files, with the same meaning everywhere.


def matches(path: str, pattern: str) -> bool:
    """Whether a relative path with forward slashes matches: `*` and `?` match within a folder, `**` across folders."""
    return _compiled(pattern).fullmatch(path) is not None


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    meaning = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    return re.compile("".join(meaning.get(piece, re.escape(piece)) for piece in pieces), re.DOTALL)
