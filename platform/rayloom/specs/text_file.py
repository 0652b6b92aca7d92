"""Fields that hold the text of a file."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TextFile:
    """Marks a field that names a text file, by a path that begins at the job file's folder.

    The loader replaces the path by the file's text before validation, so a spec holds the text itself wherever it goes.
    A value with a brace or a line break is such a text already.
    """
