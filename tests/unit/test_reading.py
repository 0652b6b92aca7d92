"""Rows out of files: every good one is a text, every bad one is named, and none goes missing."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rayloom.data.dedup.dedup_keys import document_id, place_of
from rayloom.data.sources.chunks import ChunkName, RawChunk, chunked
from rayloom.data.sources.document_rows import SourceRow, document_rows
from rayloom.data.sources.source_files import InputFile, read_chunks, reading_jobs
from rayloom.errors import InputError
from rayloom.reading.records import BadRow
from rayloom.reading.source_stream import SourceStream
from rayloom.specs.clean import CleanSpec
from rayloom.specs.cleaning.text_sources import TextSource

MAX_ROW_BYTES = 2000


def _source(damaged_files: tuple[str, ...] = (), encoding: str | None = None, **settings: Any) -> TextSource:
    about = {"name": "s", "dataset": "artifact:d", "domain": "web", "format": settings}
    return TextSource.model_validate(about | {"damaged_files": damaged_files, "encoding": encoding})


def _read(path: Path, **settings: Any) -> list[tuple[int, str]]:
    """Number of each row, and its text or the reason why there is none."""
    return [(row.number, row.text if isinstance(row, SourceRow) else row.reason) for row in _rows(path, **settings)]


def _rows(path: Path, **settings: Any) -> list[SourceRow | BadRow]:
    with closing(SourceStream(path)) as opened:
        return list(document_rows(_source(**settings), opened, path.name, MAX_ROW_BYTES))


def _file(folder: Path, content: bytes | str, name: str = "data") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# -- JSON lines --------------------------------------------------------------------------------------------------------


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        b'{"text": "one"}',
        b"",
        b'{"text": "two", "title": "Head"}',
        b'{"text": "three", "title": ""}',
        b'{"text": broken}',
        b'{"text": "\xff\xfe"}',
        b'{"body": "four"}',
        b'{"text": null}',
        b'{"text": 5}',
        b'["text"]',
        b'{"text": "' + b"x" * 3000 + b'"}',
        b'{"text": "last, without a line end"}',
    ]
    assert _read(_file(tmp_path, b"\n".join(lines)), type="jsonl", text_columns=["text"]) == [
        (1, "one"),
        (3, "two"),
        (4, "three"),
        (5, "malformed_json"),
        (6, "invalid_utf8"),
        (7, "missing_column"),
        (8, "null_text"),
        (9, "not_text"),
        (10, "not_an_object"),
        (11, "row_too_long"),
        (12, "last, without a line end"),
    ]


def test_several_columns_are_joined(tmp_path: Path) -> None:
    lines = [{"title": "Head", "text": "body"}, {"title": " ", "text": "body"}, {"title": None, "text": "body"}]
    path = _file(tmp_path, "\n".join(map(json.dumps, lines)))
    found = _read(path, type="jsonl", text_columns=["title", "text"])
    assert found == [(1, "Head\nbody"), (2, "body"), (3, "null_text")]


def test_a_fifty_megabyte_line_is_skipped_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "')
        for _ in range(50):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"text": "after"}\n')
    assert _read(path, type="jsonl") == [(1, "row_too_long"), (2, "after")]


def test_what_is_wrong_with_a_row_is_told(tmp_path: Path) -> None:
    path = _file(tmp_path, '{"body": "x", "url": "y"}\n')
    (row,) = _rows(path, type="jsonl")
    assert row == BadRow(1, "missing_column", "no text; the row has: body, url")


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz", ".bz2"])
def test_compressed_files(tmp_path: Path, suffix: str) -> None:
    content = b"".join(json.dumps({"text": f"row {n}"}).encode() + b"\n" for n in range(500))
    packers = {".gz": gzip.compress, ".zst": zstandard.compress, ".xz": lzma.compress, ".bz2": bz2.compress}
    packed = packers[suffix](content)
    assert _read(_file(tmp_path, packed, f"a{suffix}"), type="jsonl") == [(n + 1, f"row {n}") for n in range(500)]
    assert len(_read(_file(tmp_path, packed + packed, f"two{suffix}"), type="jsonl")) == 1000  # frames in a row
    half = _file(tmp_path, packed[: len(packed) // 2], f"half{suffix}")
    with pytest.raises(InputError, match=r"damaged (behind row|at its beginning)"):
        _read(half, type="jsonl")
    found = _read(half, type="jsonl", damaged_files=("half.*",))
    assert found[-1][1] == "damaged_file"
    assert found[:-1] == [(n + 1, f"row {n}") for n in range(len(found) - 1)]
    for name, content in ((f"no{suffix}", b"not compressed"), (f"behind{suffix}", packed + b"something else")):
        with pytest.raises(InputError, match="damaged"):
            _read(_file(tmp_path, content, name), type="jsonl")
    assert len(_read(_file(tmp_path, packed + bytes(512), f"padded{suffix}"), type="jsonl")) == 500
    assert len(_read(_file(tmp_path, packed, "no_ending"), type="jsonl")) == 500


def test_an_empty_file_is_counted(tmp_path: Path) -> None:
    for kind in ("jsonl", "csv", "text"):
        assert _read(_file(tmp_path, b""), type=kind) == [(0, "empty_file")]


# -- CSV ---------------------------------------------------------------------------------------------------------------


def test_csv(tmp_path: Path) -> None:
    content = (
        b'\xef\xbb\xbfid,text\n1,one\n2,"two\nlines"\n3\n4,a,b\n5,\xff\n6,"un"closed\n7,last\n8,' + b"x" * 3000 + b"\n"
    )
    assert _read(_file(tmp_path, content), type="csv") == [
        (1, "one"),
        (2, "two\nlines"),
        (3, "wrong_number_of_fields"),
        (4, "wrong_number_of_fields"),
        (5, "invalid_utf8"),
        (6, "malformed_csv"),
        (7, "last"),
        (8, "row_too_long"),
    ]


def test_a_csv_without_the_column_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no column text \(s: data\)\. The file has: id, body\."):
        _read(_file(tmp_path, "id,body\n1,x\n"), type="csv")


# -- plain text --------------------------------------------------------------------------------------------------------


def test_text_by_file_line_and_paragraph(tmp_path: Path) -> None:
    path = _file(tmp_path, "one\ntwo\n\n \nthree\n")
    assert _read(path, type="text") == [(1, "one\ntwo\n\n \nthree\n")]
    assert _read(path, type="text", documents="line") == [(1, "one\n"), (2, "two\n"), (5, "three\n")]
    assert _read(path, type="text", documents="paragraph") == [(1, "one\ntwo\n"), (5, "three\n")]


def test_text_that_is_too_long_or_not_utf8(tmp_path: Path) -> None:
    path = _file(tmp_path, b"ok\n\n" + b"x" * 3000 + b"\n\n\xff\n")
    assert _read(path, type="text") == [(1, "row_too_long")]
    assert _read(path, type="text", documents="paragraph") == [(1, "ok\n"), (3, "row_too_long"), (5, "invalid_utf8")]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        SourceStream(tmp_path / "nowhere")


# -- tables and archives -----------------------------------------------------------------------------------------------

RECORDS: list[dict[str, Any]] = [{"text": f"row {n}", "id": n} for n in range(2500)] + [{"text": None, "id": 2500}]
EXPECTED = [(n + 1, f"row {n}") for n in range(2500)] + [(2501, "null_text")]


def test_a_json_array(tmp_path: Path) -> None:
    assert _read(_file(tmp_path, json.dumps(RECORDS)), type="json") == EXPECTED
    cut = _file(tmp_path, json.dumps(RECORDS)[:5000])
    with pytest.raises(InputError, match="its array is broken at row"):
        _read(cut, type="json")
    found = _read(cut, type="json", damaged_files=("data",))
    assert found[-1][1] == "damaged_file" and found[:-1] == EXPECTED[: len(found) - 1]
    assert _read(_file(tmp_path, '["x", {"body": "y"}, {"text": "' + "z" * 3000 + '"}]'), type="json") == [
        (1, "not_an_object"), (2, "missing_column"), (3, "row_too_long"),
    ]  # fmt: skip


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "data", row_group_size=1000)
    assert _read(tmp_path / "data", type="parquet") == EXPECTED
    with pytest.raises(InputError, match="no column body"):
        _read(tmp_path / "data", type="parquet", text_columns=["body"])
    assert _read(_file(tmp_path, b"no parquet"), type="parquet", damaged_files=("data",)) == [(1, "damaged_file")]


@pytest.mark.parametrize("new", [pa.ipc.new_file, pa.ipc.new_stream])
def test_arrow(tmp_path: Path, new: Any) -> None:
    table = pa.Table.from_pylist(RECORDS)
    with new(str(tmp_path / "data"), table.schema) as writer:
        writer.write_table(table, max_chunksize=999)
    assert _read(tmp_path / "data", type="arrow") == EXPECTED
    with pytest.raises(InputError, match="no column body"):
        _read(tmp_path / "data", type="arrow", text_columns=["body"])
    assert _read(_file(tmp_path, b"no arrow"), type="arrow", damaged_files=("data",)) == [(1, "damaged_file")]


def _warc(folder: Path) -> Path:
    path = folder / "pages.warc.gz"
    words = " ".join(f"word{n}" for n in range(80))
    article = f"<article><h1>Title</h1><p>{words}</p></article>"
    html = f"<html><body><nav><a href='/'>Home</a></nav>{article}<footer>About</footer></body></html>"
    latin = "<html><head><meta charset='iso-8859-1'></head><body><p>schön " + words + "</p></body></html>"
    answers = [
        ("request", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", b""),
        ("response", "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n", html.encode()),
        ("response", "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n", b"PNG"),
        ("response", "HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n\r\n", b"<p>gone</p>"),
        ("response", "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=iso-8859-1\r\n\r\n", latin.encode("latin-1")),
        ("response", "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", b"<p>" + b"x" * 3000 + b"</p>"),
    ]
    with path.open("wb") as file:
        for number, (kind, head, body) in enumerate(answers):
            content = head.encode() + body
            about = (
                f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-FileRecord-ID: <urn:uuid:{number}>\r\nWARC-Target-URI: http://a/\r\n"
                f"Content-Type: application/http; msgtype={kind}\r\nContent-Length: {len(content)}\r\n\r\n"
            )
            file.write(gzip.compress(about.encode() + content + b"\r\n\r\n"))
    return path


def test_web_archives(tmp_path: Path) -> None:
    rows = _rows(_warc(tmp_path), type="warc")
    assert [row.number for row in rows] == [2, 3, 4, 5, 6]
    first, second, third, fourth, fifth = rows
    assert (
        isinstance(first, SourceRow)
        and "word79" in first.text
        and "Home" not in first.text
        and "About" not in first.text
    )
    assert isinstance(second, SourceRow) and second.drop == "not_html"
    assert isinstance(third, SourceRow) and third.drop == "not_ok"
    assert isinstance(fourth, SourceRow) and fourth.text.startswith("schön word0")
    assert isinstance(fifth, BadRow) and fifth.reason == "row_too_long"
    packed = _warc(tmp_path).read_bytes()
    cut = _rows(_file(tmp_path, packed[: len(packed) - 40], "cut.warc.gz"), type="warc", damaged_files=("cut*",))
    assert cut[:-1] == rows[: len(cut) - 1] and isinstance(cut[-1], BadRow) and cut[-1].reason == "damaged_file"
    (whole, *_) = _rows(_warc(tmp_path), type="warc", main_content_only=False)
    assert isinstance(whole, SourceRow) and "Home" in whole.text


# -- chunks and ids ----------------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=20), max_size=30), st.integers(1, 50))
def test_chunks_lose_nothing_on_their_way(texts: list[str], chunk_bytes: int) -> None:
    rows = [(n // 7, BadRow(n, "null_text", "x") if n % 5 == 4 else SourceRow(n, text)) for n, text in enumerate(texts)]
    chunks = [RawChunk.from_ray_row(chunk.as_ray_row()) for chunk in chunked(rows, chunk_bytes)]
    names = [str(chunk.name) for chunk in chunks]
    assert names == sorted(set(names)) and [str(ChunkName.of(name)) for name in names] == names
    firsts = [min(file for file, _ in chunk.rows + chunk.bad_rows) for chunk in chunks]
    assert firsts == [chunk.name.file for chunk in chunks]
    good = [row for chunk in chunks for row in chunk.rows]
    assert good == [(file, SourceRow(r.number, _carried(r.text))) for file, r in rows if isinstance(r, SourceRow)]
    assert [row for chunk in chunks for row in chunk.bad_rows] == [row for row in rows if isinstance(row[1], BadRow)]


def _carried(text: str) -> str:
    """NUL and halves of surrogate pairs are no text."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def test_ids_sort_by_file_row_and_piece() -> None:
    places = [(0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0), (1 << 19, 1 << 33, 1023)]
    ids = [document_id(*place) for place in places]
    assert ids == sorted(ids) and [place_of(number) for number in ids] == places
    with pytest.raises(InputError, match="more than a document's number can say"):
        document_id(0, 1, 1024)


def _spec(limit: int | None) -> CleanSpec:
    source = {"name": "s", "dataset": "artifact:d", "domain": "web", "format": {"type": "text", "documents": "line"}}
    output = {"type": "tokens", "tokenizer": {"type": "train"}}
    return CleanSpec.model_validate(
        {"kind": "clean", "name": "n", "output": output, "sources": [source | {"limit_documents": limit}]}
    )


def test_a_limit_takes_the_first_documents_over_all_files(tmp_path: Path) -> None:
    files = [InputFile(n, 0, str(_file(tmp_path, f"a{n}\nb{n}\nc{n}\n", f"{n}.txt")), f"{n}.txt", 9) for n in range(3)]
    assert [len(job) for job in reading_jobs(_spec(4), files)] == [3]
    assert [len(job) for job in reading_jobs(_spec(None), files)] == [3]  # small files are read together
    large = [replace(file, size_bytes=size) for file, size in zip(files, (3 << 20, 2 << 20, 1 << 20), strict=True)]
    assert [len(job) for job in reading_jobs(_spec(None), large)] == [1, 2]
    assert [len(job) for job in reading_jobs(_spec(None), [replace(file, size_bytes=0) for file in files])] == [1, 1, 1]
    (chunk,) = read_chunks(_spec(4), files)  # of both files that it takes
    assert [(file, row.text.strip()) for file, row in chunk.rows] == [(0, "a0"), (0, "b0"), (0, "c0"), (1, "a1")]
    assert sum(chunk.bytes_read for chunk in read_chunks(_spec(None), files)) == 27
