"""The sources of a cleaning job: file formats, and sources with their domain, label and weight."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from rayloom.specs.base import Name, Rule, Spec
from rayloom.specs.row_files import SourceOfRows


class Columns(Spec):
    """The columns of a row that are its text."""

    text_columns: Annotated[tuple[str, ...], Field(min_length=1)] = ("text",)
    """They are joined by line ends; empty ones are left out. A row without one of them, or with null, is unreadable."""
    label_column: str | None = None
    """A row's label, for `output: {type: rows}`: text, a whole number or a truth value."""
    keep_columns: tuple[str, ...] = ()
    """Copied to the output rows that have them; texts in them are normalised and masked like the text."""

    @model_validator(mode="after")
    def _columns_have_their_own_names(self) -> Self:
        taken = sorted({"text", "label"} & set(self.keep_columns))
        if taken:
            raise ValueError(
                f"a kept column cannot be named {' or '.join(taken)}: output rows have that column already"
            )
        return self


class JsonLines(Columns):
    """JSON lines: one JSON object on each line."""

    type: Literal["jsonl"]


class JsonArray(Columns):
    """Files that are each one JSON array of objects."""

    type: Literal["json"]


class Csv(Columns):
    """Comma-separated values with a header; fields can be in quotation marks."""

    type: Literal["csv"]
    delimiter: Annotated[str, StringConstraints(pattern=r"^[^\"\r\n]$"), Rule("must be one character")] = ","
    """What stands between fields: `;` in many files of spreadsheets."""


class Tsv(Columns):
    """Tab-separated values with a header."""

    type: Literal["tsv"]
    quoted: bool = False
    """Whether quotation marks set fields apart, as in CSV. Without it they are part of the text."""


class Parquet(Columns):
    """Parquet files."""

    type: Literal["parquet"]


class Arrow(Columns):
    """Arrow files in the stream or file format, such as the data files of a saved Hugging Face data set."""

    type: Literal["arrow"]


class Warc(Spec):
    """Web archives (WARC): the main text of every HTML response with status 200."""

    type: Literal["warc"]
    main_content_only: bool = True
    """Leave out navigation, footers and the like (resiliparse)."""


class PlainText(Spec):
    """Text files."""

    type: Literal["text"]
    documents: Literal["file", "paragraph", "line"] = "file"
    """What becomes one document; empty lines separate paragraphs."""


class DocumentFiles(SourceOfRows):
    """Files of one format under one name."""

    name: Name
    """Name for counts, rejects and reports; different for each source."""
    format: Annotated[
        JsonLines | JsonArray | Csv | Tsv | Parquet | Arrow | PlainText | Warc, Field(discriminator="type")
    ]
    """Format of the files, and which part of a row is the text."""


class TextSource(DocumentFiles):
    """A source of documents, with its domain and labels."""

    domain: Name
    """The domain of the documents, by which they are counted and by which rules may differ."""
    limit_documents: Annotated[int, Field(ge=1)] | None = None
    """Only this many rows, the first ones in the order of the files."""
    label: Annotated[str, StringConstraints(min_length=1)] | None = None
    """The label of every document, if no column has it."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """How likely a token of this source is taken, relative to a source of weight 1; see `output.mixture`."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens that are taken from this source at most. Default: no limit."""

    @property
    def is_labelled(self) -> bool:
        return self.label is not None or self._label_column is not None

    @property
    def _label_column(self) -> str | None:
        return self.format.label_column if isinstance(self.format, Columns) else None

    @model_validator(mode="after")
    def _one_label(self) -> Self:
        if self.label is not None and self._label_column is not None:
            raise ValueError("has both a label for all rows and a label_column; give one of them")
        return self
