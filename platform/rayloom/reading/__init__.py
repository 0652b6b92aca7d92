"""Files as records, for every stage: the same bytes give the same records, bad rows and errors everywhere.

- A row that cannot be read is a `BadRow` with its number and a reason; the rows around it are read. The caller decides
  how many of them are too many.
- A file that is damaged (cut off, a broken array, a broken table) raises InputError with file and row.
- Text is UTF-8, or what a byte order mark says, or the encoding that the caller names; nothing is guessed.
- Compression is known by the first bytes, not by the name: gzip, Zstandard, xz and bzip2, of one or several members.
"""
