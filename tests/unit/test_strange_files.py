"""Files as they are found in the world: every one is read rightly, or refused with its file and row, by each stage."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from rayloom.errors import InputError
from rayloom.reading.files import format_of, read_file
from rayloom.reading.named_rows import table_rows, text_or_table_rows
from rayloom.reading.records import BadRow, FileFormat, ReadOptions, Record
from rayloom.specs.row_files import RowFiles

CASES = Path(__file__).parents[1] / "cases"


def rows_of(path: Path, kind: FileFormat, **options: Any) -> list[Any]:
    """The values of each row, or the reason why there are none."""
    read = read_file(path, ReadOptions(kind, **options))
    return [row.values if isinstance(row, Record) else row.reason for row in read]


def written(folder: Path, content: bytes | str, name: str = "data") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# -- the cases ---------------------------------------------------------------------------------------------------------


def test_rows_with_more_fields_than_the_header_are_bad_rows() -> None:
    rows = list(read_file(CASES / "tables/more-fields-than-header.csv", ReadOptions("csv")))
    assert {(row.number, row.reason) for row in rows if isinstance(row, BadRow)} == {
        (number, "wrong_number_of_fields") for number in range(1, 17)
    }


def test_a_quotation_mark_in_tsv_is_text() -> None:
    rows = rows_of(CASES / "tables/quote-at-the-beginning.tsv", "tsv")
    assert len(rows) == 16
    assert [row["text"] for row in rows if row["text"].startswith('"')] == [
        '"The lamp film was lovely', '"The valley film was lovely',
    ]  # fmt: skip


def test_carriage_returns_end_lines() -> None:
    rows = rows_of(CASES / "tables/cr-line-ends.csv", "csv")
    assert rows == [{"text": "first row", "label": "a"}, {"text": "second row", "label": "b"}]


def test_a_byte_order_mark_before_an_array() -> None:
    assert rows_of(CASES / "text/bom-array.json", "json") == [{"text": "first"}, {"text": "second"}]


def test_nan_in_an_array_is_null() -> None:
    assert [row["score"] for row in rows_of(CASES / "text/nan-in-array.json", "json")] == [1.5, None, 2]


def test_chinese_in_gbk_is_refused_unless_its_encoding_is_named() -> None:
    ((origin, bad),) = text_or_table_rows([CASES / "text/gbk.txt"], RowFiles())
    assert origin == "gbk.txt line 1" and isinstance(bad, BadRow) and bad.reason == "invalid_utf8"
    ((_, row),) = text_or_table_rows([CASES / "text/gbk.txt"], RowFiles(encoding="gbk"))
    assert row == {"text": (CASES / "text/gbk.txt").read_text("gbk")}


def test_compressed_rows_are_read_everywhere() -> None:
    for reader in (table_rows, text_or_table_rows):
        assert [origin for origin, _ in reader([CASES / "text/rows.jsonl.gz"], RowFiles())] == ["rows.jsonl.gz row 1"]


def test_document_starts_and_comments_are_no_texts() -> None:
    assert rows_of(CASES / "text/docstart.conll", "conll") == [
        {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"words": ["Peter"], "tags": ["B-PER"]},
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("integer-of-5000-digits", "number_too_long"), ("nested-900-deep", "nested_too_deep")],
)
def test_absurd_json_is_a_row_by_its_number(name: str, reason: str) -> None:
    ((origin, bad),) = table_rows([CASES / f"rows/{name}.jsonl"], RowFiles())
    assert origin == f"{name}.jsonl row 1" and isinstance(bad, BadRow) and bad.reason == reason


# -- tables in text ----------------------------------------------------------------------------------------------------


def test_a_mark_that_does_not_close_costs_its_own_row(tmp_path: Path) -> None:
    content = 'label,text\na,one\nb,"two\nc,three\nd,"four"\ne,five\n'
    rows = rows_of(written(tmp_path, content), "csv")
    assert rows == [
        {"label": "a", "text": "one"}, "malformed_csv", {"label": "c", "text": "three"},
        {"label": "d", "text": "four"}, {"label": "e", "text": "five"},
    ]  # fmt: skip
    (bad,) = (row for row in read_file(tmp_path / "data", ReadOptions("csv")) if isinstance(row, BadRow))
    assert bad.number == 2 and "line 3" in bad.detail
    with pytest.raises(InputError, match="quotation mark takes up more than 200 bytes"):
        rows_of(written(tmp_path, 'label,text\na,"' + "no mark here\n" * 300), "csv", max_row_bytes=200)


def test_a_row_that_is_too_long_hides_no_other(tmp_path: Path) -> None:
    long = '"' + "one line, of many\n" * 50 + 'and a ""quote"""'
    rows = rows_of(written(tmp_path, f"text\nfirst\n{long}\nlast\n"), "csv", max_row_bytes=200)
    assert rows == [{"text": "first"}, "row_too_long", {"text": "last"}]


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ("text,label,text\na,b,c\n", "csv", "The column text stands there twice"),
        ("text\tlabel\ttext\na\tb\tc\n", "tsv", "The column text stands there twice"),
        ('"text,label\na,b\n', "csv", "The header of this table cannot be read"),
        (b"te\xffxt,label\na,b\n", "csv", "The header of this table cannot be read"),
        (b"x" * 500 + b",label\na,b\n", "csv", "The header of this table cannot be read"),
    ],
)
def test_broken_headers_are_one_sentence(content: bytes | str, kind: FileFormat, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        rows_of(written(tmp_path, content), kind, max_row_bytes=300)


def test_tables_have_a_column_once(tmp_path: Path) -> None:
    table = pa.table([["a"], ["b"]], names=["text", "text"])
    pq.write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(InputError, match="The column text stands there twice"):
        rows_of(tmp_path / "twice.parquet", "parquet")


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    content = "\ufeffname;text;;\r\n\r\nAnna;one;;\r\nBob;;;\r\n"
    rows = rows_of(written(tmp_path, content), "csv", delimiter=";")
    assert rows == [{"name": "Anna", "text": "one"}, {"name": "Bob", "text": ""}]
    quoted = rows_of(written(tmp_path, 'a\tb\n"x\ty"\t2\n'), "tsv", is_quoted=True)
    assert quoted == [{"a": "x\ty", "b": "2"}]


# -- bytes -------------------------------------------------------------------------------------------------------------

TEXTS = ["schön und 北京", "two 🙂"]
LINES = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_what_a_byte_order_mark_says_is_read(encoding: str, tmp_path: Path) -> None:
    path = written(tmp_path, LINES.encode(encoding))
    assert [row["text"] for row in rows_of(path, "jsonl")] == TEXTS
    assert [row["text"] for row in rows_of(path, "jsonl", encoding="latin-1")] == TEXTS
    assert [row["text"] for row in rows_of(written(tmp_path, json.dumps(TEXTS).encode(encoding)), "text")]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "gb18030"])
def test_what_no_mark_says_is_read_by_name_alone(encoding: str, tmp_path: Path) -> None:
    path = written(tmp_path, LINES.encode(encoding), "rows.jsonl")
    assert [row["text"] for row in rows_of(path, "jsonl", encoding=encoding)] == TEXTS
    if encoding == "gb18030":
        assert rows_of(path, "jsonl") == ["invalid_utf8", "invalid_utf8"]
    else:
        with pytest.raises(InputError, match="looks like UTF-16 without a byte order mark"):
            rows_of(path, "jsonl")


def test_bytes_that_an_encoding_does_not_have_cost_their_row(tmp_path: Path) -> None:
    content = "好\n".encode("gbk") + b"\x81\x20\xff\n" + "京\n".encode("gbk")
    assert rows_of(written(tmp_path, content), "text", encoding="gbk") == [
        {"text": "好\n"}, "invalid_utf8", {"text": "京\n"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n" + bytes(range(256)), b"%PDF-1.7\nx", bytes(4096), b"PK\x03\x04x"]
)
def test_binary_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = written(tmp_path, content, "notes.txt")
    with pytest.raises(InputError, match=r"damaged at its beginning: it is no text.*notes\.txt"):
        list(text_or_table_rows([path], RowFiles()))
    with pytest.raises(InputError, match=r"notes\.txt"):
        list(table_rows([path], RowFiles()))


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress, "zst": zstandard.compress, "xz": lzma.compress, "bz2": bz2.compress,
}  # fmt: skip


def in_format(kind: FileFormat, rows: list[dict[str, Any]], folder: Path) -> bytes:
    table = pa.Table.from_pylist(rows)
    path = folder / "table"
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "arrow":
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)
    elif kind == "json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.read_bytes()


CHATS = [
    {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]} for n in range(9)
]


@pytest.mark.parametrize("packed", ["", *PACK])
@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "arrow"])
def test_nested_columns_come_out_of_every_format_however_compressed(
    kind: FileFormat, packed: str, tmp_path: Path
) -> None:
    content = in_format(kind, CHATS, tmp_path)
    path = written(tmp_path, PACK[packed](content) if packed else content, f"rows.{kind}" + (packed and f".{packed}"))
    assert format_of(path.name) == kind
    assert [values for _, values in table_rows([path], RowFiles())] == CHATS
    nameless = written(tmp_path, path.read_bytes(), "part-0000")
    if kind != "arrow":
        assert [values for _, values in table_rows([nameless], RowFiles())] == CHATS


@pytest.mark.parametrize("packed", PACK)
def test_members_follow_each_other_and_a_cut_one_is_an_error(packed: str, tmp_path: Path) -> None:
    one = PACK[packed](b'{"n": 1}\n' * 3000)
    path = written(tmp_path, one + PACK[packed](b"") + one, f"rows.jsonl.{packed}")
    assert len(rows_of(path, "jsonl")) == 6000
    with pytest.raises(InputError, match=r"damaged behind row 3,\d+: it ends in the middle"):
        rows_of(written(tmp_path, one + one[: len(one) // 2], f"cut.jsonl.{packed}"), "jsonl")
    waved = [values for _, values in table_rows([tmp_path / f"cut.jsonl.{packed}"], RowFiles(damaged_files=("cut*",)))]
    assert waved[:3000] == [{"n": 1}] * 3000 and isinstance(waved[-1], BadRow) and waved[-1].reason == "damaged_file"


# -- JSON --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1}', "row 1: the file ends behind it"), ('[{"a": 1} {"a": 2}]', "row 1: '{' stands behind it"),
        ('[{"a": 1}, {"a": ]', "row 2: Expecting value"), ('[{"a": 1}]]', "more follows behind its array of 1 rows"),
        ('[{"a": 1}, {"a": "x', "row 2: Unterminated"), ('[{"a": 1},]', "row 2: Expecting value"),
        ('[{"a": 1}, {"a": tru}]', "row 2: Expecting value"),
    ],
)  # fmt: skip
def test_a_broken_array_is_an_error_at_its_row(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        rows_of(written(tmp_path, content), "json")
    assert rows_of(tmp_path / "data", "json", is_damage_allowed=True) == [{"a": 1}, "damaged_file"]


def test_absurd_elements_of_an_array_cost_their_row(tmp_path: Path) -> None:
    absurd = ["9" * 5000, "[" * 5000 + "]" * 5000, '{"a": ' * 900 + '"}]\\"["' + "}" * 900, "[1e999, -Infinity]"]
    content = f'[{{"a": "x"}}, {", ".join(absurd)}, "{"y" * 3000}", {{"a": "z"}}]'
    assert rows_of(written(tmp_path, content), "json", max_row_bytes=20_000) == [
        {"a": "x"}, "number_too_long", "nested_too_deep", "nested_too_deep", [None, None], "y" * 3000, {"a": "z"},
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_depth_does_not_take_memory(kind: FileFormat, tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    content = f'[{{"a": 1}}, {deep}, {{"a": 2}}]' if kind == "json" else f'{{"a": 1}}\n{deep}\n{{"a": 2}}\n'
    path = written(tmp_path, content)
    tracemalloc.start()
    assert rows_of(path, kind) == [{"a": 1}, "nested_too_deep", {"a": 2}]
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_long_element_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    with path.open("wb") as file:
        file.write(b'[{"text": "')
        for _ in range(40):
            file.write(b"x" * 1_000_000)
        file.write(b'"}, {"text": "after"}]')
    tracemalloc.start()
    assert rows_of(path, "json", max_row_bytes=100_000) == ["row_too_long", {"text": "after"}]
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=8), st.booleans(), st.sampled_from([None, 1, "\t"]))
@settings(deadline=None)
def test_an_array_is_read_as_json_reads_it(tmp_path_factory: Any, rows: list[Any], is_ascii: bool, indent: Any) -> None:
    folder = tmp_path_factory.mktemp("array")
    text = json.dumps(rows, ensure_ascii=is_ascii, indent=indent)
    path = written(folder, text.encode("utf-8", "surrogatepass"))
    if all(not isinstance(row, str) or "\ud800" not in row for row in rows):
        assert rows_of(path, "json") == rows


# -- anything at all ---------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:\\\r\n\t 1ae', max_size=60).map(str.encode))
@settings(deadline=None, max_examples=60)
def test_any_bytes_are_rows_or_one_error(tmp_path_factory: Any, content: bytes) -> None:
    path = written(tmp_path_factory.mktemp("any"), content)
    for kind in get_args(FileFormat):
        for encoding in (None, "gbk", "utf-16"):
            try:
                rows = list(read_file(path, ReadOptions(kind, encoding, max_row_bytes=50)))
            except InputError:
                continue
            numbers = [row.number for row in rows]
            assert numbers == sorted(set(numbers))
            assert all(isinstance(row, Record | BadRow) for row in rows)
