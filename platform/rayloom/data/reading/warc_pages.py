"""Pages out of web archives: the text of every HTML response."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

HTML_TYPES = ("text/html", "application/xhtml+xml")
OK_STATUS = 200


@dataclass(frozen=True)
class Page:
    """A response of an archive: its text, or why it is none that can be read."""

    number: int
    """Place among the archive's records, from 1."""
    text: str
    drop: str = ""
    """`not_html`, `not_ok`: the response is no page."""
    too_long: bool = False


def pages(stream: IO[bytes], main_content_only: bool, max_bytes: int) -> Iterator[Page]:
    """Every response, in order; requests and notes of the crawler are no pages and are passed over."""
    for number, record in enumerate(ArchiveIterator(stream, parse_http=True), start=1):
        if record.record_type == WarcRecordType.response:
            yield _page(number, record, main_content_only, max_bytes)


def _page(number: int, record: WarcRecord, main_content_only: bool, max_bytes: int) -> Page:
    headers = record.http_headers
    if headers is None or not (record.http_content_type or "").startswith(HTML_TYPES):
        return Page(number, "", "not_html")
    if headers.status_code != OK_STATUS:
        return Page(number, "", "not_ok")
    body = record.reader.read(max_bytes + 1)
    if len(body) > max_bytes:
        return Page(number, "", too_long=True)
    html = bytes_to_str(body, record.http_charset or detect_encoding(body) or "utf-8")
    return Page(number, extract_plain_text(html, main_content=main_content_only, alt_texts=False))
