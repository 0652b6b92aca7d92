"""Ids of documents, which depend only on the place of a document in the input, not on the order of processing.

An id holds the index of the file in the sorted list of all files (20 bits), the row in the file (34 bits) and the piece
of the row (10 bits). The order of ids is the order of reading.
"""

from __future__ import annotations

from rayloom.errors import InputError

MAX_FILES, MAX_ROWS, MAX_PIECES = 1 << 20, 1 << 34, 1 << 10


def document_id(file: int, row: int, piece: int = 0) -> int:
    """The id of a document. Raises InputError if a number does not fit into its bits."""
    if file >= MAX_FILES or row >= MAX_ROWS or piece >= MAX_PIECES:
        what = f"File {file:,}, row {row:,}, piece {piece:,} is more than a document's number can say"
        fix = f"Merge files (up to {MAX_FILES:,}), or split longer documents (up to {MAX_PIECES:,} pieces)."
        raise InputError(what, fix=fix)
    return (file << 44) | (row << 10) | piece


def place_of(document: int) -> tuple[int, int, int]:
    """File, row and piece of an id."""
    return document >> 44, (document >> 10) & (MAX_ROWS - 1), document & (MAX_PIECES - 1)
