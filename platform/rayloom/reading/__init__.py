"""Readers that turn files into records, used by every kind of job so that all read a file in the same way.

- A row that cannot be read becomes a `BadRow` with its number and a reason; reading continues with the next row. The
  caller decides how many bad rows are too many.
- A damaged file (truncated, invalid JSON array, invalid Parquet or Arrow) raises InputError with file and row.
- Text is UTF-8 unless a byte order mark or the caller names another encoding; it is not guessed.
- Compression is recognised by the first bytes, not the name: gzip, Zstandard, xz and bzip2, of one or more members.
"""
