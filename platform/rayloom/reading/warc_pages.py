"""Records from web archives (WARC): the text of every HTML response."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

from rayloom.reading.records import BadRow, FileRecord, ReadOptions, row_too_long

HTML_TYPES = ("text/html", "application/xhtml+xml")
OK_STATUS = 200


def page_records(content: IO[bytes], options: ReadOptions) -> Iterator[FileRecord | BadRow]:
    """A record with `text` for every response, and `no_page` with the reason if it is not an HTML page; other records
    (requests, metadata) are skipped, but counted in the row numbers."""
    archive: Any = _Forward(content)
    for number, record in enumerate(ArchiveIterator(archive, parse_http=True), start=1):
        if record.record_type == WarcRecordType.response:
            yield _page(number, record, options)


class _Forward:
    """A stream with `tell` for fastwarc's ArchiveIterator, which panics without it."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content, self._position = content, 0

    def read(self, size: int = -1) -> bytes:
        part = self._content.read(size)
        self._position += len(part)
        return part

    def tell(self) -> int:
        return self._position


def _page(number: int, record: WarcRecord, options: ReadOptions) -> FileRecord | BadRow:
    headers = record.http_headers
    if headers is None or not (record.http_content_type or "").startswith(HTML_TYPES):
        return FileRecord(number, {"text": "", "no_page": "not_html"})
    if headers.status_code != OK_STATUS:
        return FileRecord(number, {"text": "", "no_page": "not_ok"})
    body = record.reader.read(options.max_row_bytes + 1)
    if len(body) > options.max_row_bytes:
        return row_too_long(number, options.max_row_bytes)
    html = bytes_to_str(body, record.http_charset or detect_encoding(body) or "utf-8")
    text = extract_plain_text(html, main_content=options.main_content_only, alt_texts=False)
    return FileRecord(number, {"text": text})
