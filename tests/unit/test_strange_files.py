"""Files as they are found in the world: every one is read rightly, or refused with its file and row, by each stage."""

from __future__ import annotations

import bz2
import datetime
import decimal
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
from pydantic import ValidationError
from support.passes import cleaned

from rayloom.artifacts.store import Artifact, Store
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.errors import InputError
from rayloom.evaluate.prediction.parts import Parts, read_part, write_parts
from rayloom.reading.files import format_of, read_file, table_rows, text_or_table_rows
from rayloom.reading.records import BadRow, FileFormat, FileRecord, ReadOptions
from rayloom.specs.predict import PredictSpec
from rayloom.specs.row_files import RowFiles

CASES = Path(__file__).parents[1] / "cases"


def rows_of(path: Path, kind: FileFormat, **options: Any) -> list[Any]:
    """The values of each row, or the reason why there are none."""
    read = read_file(path, ReadOptions(kind, **options))
    return [row.values if isinstance(row, FileRecord) else row.reason for row in read]


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
    assert row == {"text": (CASES / "text/gbk.txt").read_text("gbk").strip()}


def test_lines_to_predict_have_no_line_ends(tmp_path: Path) -> None:
    path = written(tmp_path, "one \r\n\ntwo\n", "notes.md")
    assert list(text_or_table_rows([path], RowFiles())) == [
        ("notes.md line 1", {"text": "one"}), ("notes.md line 3", {"text": "two"}),
    ]  # fmt: skip


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


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_a_key_that_says_two_things_costs_its_row(kind: FileFormat, tmp_path: Path) -> None:
    rows = ['{"a": 1, "a": 1}', '{"a": 1, "a": 2}', '{"m": [{"content": "a", "content": "b"}]}', '{"a": 3}']
    content = f"[{', '.join(rows)}]" if kind == "json" else "\n".join(rows)
    path = written(tmp_path, content)
    assert rows_of(path, kind) == [{"a": 1}, "duplicate_key", "duplicate_key", {"a": 3}]
    read = read_file(path, ReadOptions(kind))
    assert [row.number for row in read if isinstance(row, BadRow)] == [2, 3]


def test_an_object_over_several_lines_is_one_sentence(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps({"data": [{"text": "a"}]}, indent=1), "squad.json")
    with pytest.raises(InputError, match=r"an object over several lines.*squad\.json"):
        list(table_rows([path], RowFiles()))


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.txt", "x.bin"])
def test_a_pointer_of_git_lfs_is_no_data(name: str, tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
    with pytest.raises(InputError, match="pointer of a file in Git LFS"):
        list((text_or_table_rows if name == "x.txt" else table_rows)([written(tmp_path, pointer, name)], RowFiles()))


# -- what the stages make of them --------------------------------------------------------------------------------------


def test_values_of_tables_are_as_json_has_them(tmp_path: Path) -> None:
    moment = datetime.datetime(2026, 11, 29, 12, 30)
    columns = {
        "text": [b"caf\xc3\xa9"], "score": [float("nan")], "when": [moment], "price": [decimal.Decimal("1.50")],
        "deep": [[{"scores": [1.5, float("inf")]}]],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    (row,) = rows_of(tmp_path / "x.parquet", "parquet")
    assert json.loads(json.dumps(row, allow_nan=False)) == {
        "text": "café", "score": None, "when": "2026-11-29T12:30:00", "price": 1.5, "deep": [{"scores": [1.5, None]}],
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_what_a_table_filled_in_for_another_call_is_left_out(kind: FileFormat, tmp_path: Path) -> None:
    def row(arguments: dict[str, Any]) -> dict[str, Any]:
        calls = [{"function": {"name": "clock", "arguments": arguments}}]
        return {"messages": [{"role": "assistant", "content": None, "tool_calls": calls}], "score": None}

    rows = [row({"place": "Bern"}), row({"zone": 2}), {"messages": None, "score": 1}]
    path = written(tmp_path, in_format(kind, rows, tmp_path), f"x.{kind}")
    read = rows_of(path, kind)
    assert [one["messages"][0]["tool_calls"][0]["function"]["arguments"] for one in read[:2]] == [
        {"place": "Bern"}, {"zone": 2},
    ]  # fmt: skip
    assert (read[0]["score"], read[2]) == (None, {"messages": None, "score": 1})


def test_a_text_of_a_table_that_is_not_utf8_costs_its_row(tmp_path: Path) -> None:
    texts = pa.StringArray.from_buffers(3, *pa.array([b"one", b"\xff\xfe", b"three"], pa.binary()).buffers()[1:])
    pq.write_table(pa.table({"text": texts}), tmp_path / "x.parquet")
    assert rows_of(tmp_path / "x.parquet", "parquet") == [{"text": "one"}, "invalid_utf8", {"text": "three"}]


def test_predictions_are_asked_of_every_row_that_can_be_read(tmp_path: Path) -> None:
    lines = '{"text": "x", "k": 1e999}\n{"text": "half \\ud83d"}\n{"text": \n[1]\n'
    written(tmp_path, lines, "a.jsonl")
    pq.write_table(pa.table({"text": ["y"], "k": [b"\xff"]}), tmp_path / "b.parquet")
    job = {"kind": "predict", "name": "n", "model": "artifact:m", "data": "artifact:d", "keep": ["k"]}
    parts = Parts(WorkCopy(Store(str(tmp_path)), "n", "v"))
    assert write_parts(PredictSpec.model_validate(job), [tmp_path / "a.jsonl", tmp_path / "b.parquet"], parts) == 5
    rows = read_part(parts.questions(0))
    assert [row["text"] for row in rows] == ["x", None, None, None, "y"]
    assert [row.get("unreadable", "").partition(":")[0] for row in rows] == [
        "", "half_a_character", "malformed_json", "", "",
    ]  # fmt: skip
    assert rows[0]["kept"] == {"k": None}


def _cleaned(folder: Path, name: str, content: bytes, **source: Any) -> Artifact:
    (folder / "data").mkdir(exist_ok=True)
    written(folder / "data", content, name)
    about = {"name": "s", "dataset": "./data", "domain": "web"} | source
    rules = {"gopher": None, "repetition": None, "characters": None}
    return cleaned(folder, {"sources": [about], "rules": rules, "output": {"type": "rows", "test_share": 0.3}})


def test_cleaning_keeps_no_nan_and_reads_what_a_source_names(tmp_path: Path) -> None:
    rows = [{"text": f"Die Straße Nummer {n} führt über {n * n} Brücken.", "score": float("nan")} for n in range(60)]
    form = {"type": "json", "keep_columns": ["score"]}
    content = json.dumps(rows, ensure_ascii=False).encode("latin-1")
    artifact = _cleaned(tmp_path, "rows.json", content, format=form, encoding="latin-1")
    kept = [
        json.loads(line, parse_constant=pytest.fail)
        for line in (artifact.path / "train.jsonl").read_text().splitlines()
    ]
    assert all(row["score"] is None and "Straße" in row["text"] for row in kept) and kept
    assert artifact.manifest.metrics["bad_rows"] == 0


def test_a_damaged_file_stops_cleaning_whatever_the_share_allows(tmp_path: Path) -> None:
    lines = b"".join(b'{"text": "row %d about %d boats"}\n' % (n, n * n) for n in range(4000))
    cut = gzip.compress(lines)[:-200]
    with pytest.raises(InputError, match=r"damaged behind row.*rows\.jsonl\.gz"):
        _cleaned(tmp_path, "rows.jsonl.gz", cut, format={"type": "jsonl"})
    artifact = _cleaned(tmp_path, "rows.jsonl.gz", cut, format={"type": "jsonl"}, damaged_files=["rows.*"])
    assert artifact.manifest.metrics["bad"] == {"damaged_file": 1}


@pytest.mark.parametrize("name", ["utf-9", "base64", "hex", ""])
def test_an_encoding_that_is_none_is_refused_by_check(name: str) -> None:
    with pytest.raises(ValidationError, match="is no encoding of text"):
        RowFiles(encoding=name)


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
            assert all(isinstance(row, FileRecord | BadRow) for row in rows)
