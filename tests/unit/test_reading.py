"""Rows out of files: every good one is a text, every bad one is named, and none goes missing."""

from __future__ import annotations

import gzip
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rayloom.data.chunks import ChunkName, RawChunk, chunked
from rayloom.data.ids import document_id, place_of
from rayloom.data.inputs import InputFile, read_chunks, reading_jobs
from rayloom.data.rows import BadRow, Input, Row, rows_of
from rayloom.errors import InputError
from rayloom.specs.clean import CleanSpec, TextSource

MAX_ROW_BYTES = 2000


def _source(**settings: Any) -> TextSource:
    return TextSource.model_validate({"name": "s", "dataset": "artifact:d", "domain": "web", "format": settings})


def _read(path: Path, **settings: Any) -> list[tuple[int, str]]:
    """Number of each row, and its text or the reason why there is none."""
    return [(row.number, row.text if isinstance(row, Row) else row.reason) for row in _rows(path, **settings)]


def _rows(path: Path, **settings: Any) -> list[Row | BadRow]:
    with closing(Input(path)) as opened:
        return list(rows_of(_source(**settings), opened, path.name, MAX_ROW_BYTES))


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
        b'{"text": "three", "title": null}',
        b'{"text": broken}',
        b'{"text": "\xff\xfe"}',
        b'{"body": "four"}',
        b'{"text": null}',
        b'{"text": 5}',
        b'["text"]',
        b'{"text": "' + b"x" * 3000 + b'"}',
        b'{"text": "last, without a line end"}',
    ]
    assert _read(_file(tmp_path, b"\n".join(lines)), type="jsonl", title_column="title") == [
        (1, "one"),
        (3, "Head\ntwo"),
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


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_files(tmp_path: Path, suffix: str) -> None:
    content = b"".join(json.dumps({"text": f"row {n}"}).encode() + b"\n" for n in range(500))
    packed = gzip.compress(content) if suffix == ".gz" else zstandard.compress(content)
    assert _read(_file(tmp_path, packed, f"a{suffix}"), type="jsonl") == [(n + 1, f"row {n}") for n in range(500)]
    assert len(_read(_file(tmp_path, packed + packed, f"two{suffix}"), type="jsonl")) == 1000  # frames in a row
    found = _read(_file(tmp_path, packed[: len(packed) // 2], f"half{suffix}"), type="jsonl")
    assert found[-1][1] == "damaged_file"
    assert found[:-1] == [(n + 1, f"row {n}") for n in range(len(found) - 1)]
    assert [reason for _, reason in _read(_file(tmp_path, b"not compressed", f"no{suffix}"), type="jsonl")] == [
        "damaged_file"
    ]


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
    with pytest.raises(InputError, match=r"no column text \(data\)\. The file has: id, body\."):
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
        Input(tmp_path / "nowhere")


# -- chunks and ids ----------------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=20), max_size=30), st.integers(1, 50))
def test_chunks_lose_nothing_on_their_way(texts: list[str], chunk_bytes: int) -> None:
    rows = [BadRow(n, "null_text", "x") if n % 5 == 4 else Row(n, text) for n, text in enumerate(texts)]
    chunks = [RawChunk.from_ray_row(chunk.as_ray_row()) for chunk in chunked(rows, 3, chunk_bytes)]
    assert [chunk.name for chunk in chunks] == [ChunkName(3, n) for n in range(len(chunks))]
    good = [row for chunk in chunks for row in chunk.rows]
    assert good == [Row(r.number, _carried(r.text)) for r in rows if isinstance(r, Row)]
    assert [row for chunk in chunks for row in chunk.bad_rows] == [row for row in rows if isinstance(row, BadRow)]


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
    tokenizer = {"type": "train"}
    return CleanSpec.model_validate(
        {"kind": "clean", "name": "n", "tokenizer": tokenizer, "sources": [source | {"limit_documents": limit}]}
    )


def test_a_limit_takes_the_first_documents_over_all_files(tmp_path: Path) -> None:
    files = [InputFile(n, 0, str(_file(tmp_path, f"a{n}\nb{n}\nc{n}\n", f"{n}.txt")), f"{n}.txt", 9) for n in range(3)]
    assert [len(job) for job in reading_jobs(_spec(4), files)] == [3]
    assert [len(job) for job in reading_jobs(_spec(None), files)] == [1, 1, 1]
    texts = [row.text.strip() for chunk in read_chunks(_spec(4), files) for row in chunk.rows]
    assert texts == ["a0", "b0", "c0", "a1"]
    assert sum(chunk.bytes_read for chunk in read_chunks(_spec(None), files)) == 27
